# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What the fields of the data model mean, read from the docstrings of its dataclasses."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any, get_args, get_type_hints

SECTION = re.compile(r"^Attributes:\n((?:(?: .*)?(?:\n|$))*)", re.MULTILINE)
ENTRY = re.compile(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", re.MULTILINE)


def describe_fields(cls: type) -> dict[str, str]:
    """Descriptions by field, in the order of the docstring's ``Attributes:`` section."""
    section = SECTION.search(inspect.getdoc(cls) or "")
    entries = ENTRY.findall(section.group(1)) if section else []
    return {name: " ".join(text.split()) for name, text in entries}


def summarize(cls: type) -> str:
    """First paragraph of the docstring, on one line."""
    paragraph = (inspect.getdoc(cls) or "").partition("\n\n")[0]
    return " ".join(paragraph.split())


def list_dataclasses(root: type) -> tuple[type, ...]:
    """``root`` and every dataclass that its fields hold, each once, in the order met."""
    return tuple(dict.fromkeys(_walk(root)))


def _walk(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type) and is_dataclass(annotation):
        yield annotation
        parts = tuple(get_type_hints(annotation).values())
    else:
        parts = get_args(annotation)
    for part in parts:
        yield from _walk(part)
