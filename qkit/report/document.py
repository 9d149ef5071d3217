# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The data model of ``report.json`` as a text: ``python -m qkit.report.document``."""

from __future__ import annotations

import re

from qkit.report.fields import describe_fields, list_dataclasses, summarize
from qkit.report.model import VERSION, ModelReport

HEAD = f"""# Fields of report.json, layout {VERSION}

Every number that qkit shows of a run, in the terminal, on the page and as CSV, is one of these.
SQNR is the signal to quantization noise ratio, 10 log10 of signal energy over error energy, in dB;
`null` in a required field of dB means that nothing is lost. Shares are fractions from 0 to 1.

This file is written by `python -m qkit.report.document > qkit/report/FIELDS.md`.
"""


def document() -> str:
    """Markdown: one section a dataclass, one line a field."""
    return "\n".join([HEAD, *(_section(cls) for cls in list_dataclasses(ModelReport))])


def _section(cls: type) -> str:
    lines = [f"- `{name}`: {_json(text)}" for name, text in describe_fields(cls).items()]
    return "\n".join([f"## {cls.__name__}", "", _json(summarize(cls)), "", *lines, ""])


def _json(text: str) -> str:
    """Python's names as Markdown and JSON have them."""
    return re.sub(r"\bNone\b", "null", text.replace("``", "`"))


if __name__ == "__main__":
    print(document(), end="")
