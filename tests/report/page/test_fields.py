# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The data model explains itself."""

from dataclasses import dataclass, fields

import pytest

from qkit.calibration.protocol import StageNote
from qkit.graph.coverage import LeftFloat
from qkit.report.fields import describe_fields, list_dataclasses, summarize
from qkit.report.layer import Channel, LayerReport, TensorReport
from qkit.report.model import ModelReport
from qkit.report.partition import PartitionReport
from qkit.report.space import Space


@dataclass
class Example:
    """First line
    and its rest.

    Attributes:
        one: what it
            means: exactly.
        two: more.

    Raises:
        three: no field.
    """

    one: int
    two: int


@dataclass
class Silent:
    one: int


def test_descriptions_are_joined_and_end_with_their_section():
    assert describe_fields(Example) == {"one": "what it means: exactly.", "two": "more."}
    assert summarize(Example) == "First line and its rest."


def test_a_class_that_says_nothing_describes_nothing():
    assert describe_fields(Silent) == {}


def test_every_dataclass_of_the_report_is_found_once():
    found = list_dataclasses(ModelReport)
    assert found[0] is ModelReport
    parts = {LeftFloat, LayerReport, TensorReport, Channel, Space, PartitionReport, StageNote}
    assert parts < set(found)
    assert len(found) == len(set(found)) == 18


@pytest.mark.parametrize("cls", list_dataclasses(ModelReport), ids=lambda cls: cls.__name__)
def test_every_field_is_described(cls):
    described = describe_fields(cls)
    assert list(described) == [field.name for field in fields(cls)]
    assert all(described.values())
    assert summarize(cls)
