# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The data model as a text: the one in the repository is up to date, and every field is in it."""

from dataclasses import fields
from pathlib import Path

import qkit.report
from qkit.report.document import document
from qkit.report.fields import list_dataclasses
from qkit.report.model import ModelReport


def test_the_text_in_the_repository_is_up_to_date():
    folder = Path(next(iter(qkit.report.__path__)))
    stored = (folder / "FIELDS.md").read_text(encoding="utf-8")
    assert stored == document(), "run: python -m qkit.report.document > qkit/report/FIELDS.md"


def test_every_field_of_every_part_has_its_line():
    text = document()
    for cls in list_dataclasses(ModelReport):
        section = text.partition(f"## {cls.__name__}\n")[2].partition("\n## ")[0]
        for field in fields(cls):
            assert f"\n- `{field.name}`: " in section
