# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a calibrator notes of layers searched together, as part of the report."""

import math

import pytest

from qkit.calibration.protocol import Annotated, StageNote
from qkit.report.partition import PartitionReport, describe_partition, groups_of, mark_layers

NOTES = (
    StageNote("b.0.attn", "image", 0, ("b.0.attn.q", "b.0.attn.sdpa"), 1.5, 0, 0.3, 0.2),
    StageNote("b.0.mlp", "image", 0, ("b.0.mlp.fc",), 1.25, 0, 0.3, 0.2),
    StageNote("b.1", "image", 1, ("b.1.fc",), None, 1, 0.5, 0.5),
    StageNote("t.0", "text", 0, ("t.0.fc",), None, 0, 0.1, 0.05),
)


@pytest.fixture
def partition():
    return describe_partition(Annotated({}, NOTES, {"image": 1.375, "text": math.inf}))


def test_notes_are_in_the_report_as_they_are(partition):
    assert partition.stages == NOTES


def test_an_infinite_threshold_is_none(partition):
    assert partition.threshold == {"image": 1.375, "text": None}


def test_a_calibrator_that_notes_nothing_has_an_empty_partition():
    assert describe_partition({}) == PartitionReport((), {})


def test_layers_get_what_their_stage_has_and_the_others_stay(partition, layer):
    names = ("b.0.mlp.fc", "b.0.attn.sdpa", "b.1.fc", "t.0.fc", "conv", "b.0.attn")
    layers = [layer(name=name, cosine=0.5 + i / 10) for i, name in enumerate(names)]
    marked = mark_layers(layers, partition)
    found = [(x.name, x.dependency, x.search_group) for x in marked]
    assert found[:3] == [("b.0.mlp.fc", 1.25, 0), ("b.0.attn.sdpa", 1.5, 0), ("b.1.fc", None, 1)]
    assert found[3] == ("t.0.fc", None, 0)
    assert marked[4:] == tuple(layers[4:])
    assert [x.cosine for x in marked] == [x.cosine for x in layers]


def test_groups_hold_neighbours_in_order(partition):
    groups = groups_of(partition.stages[:3])
    assert [[stage.name for stage in group] for group in groups] == [
        ["b.0.attn", "b.0.mlp"],
        ["b.1"],
    ]
    assert groups_of([]) == []


@pytest.mark.parametrize(
    ("start", "error", "gain"),
    [(0.2, 0.02, 10.0), (0.02, 0.2, -10.0), (0.3, 0.3, 0.0), (0.0, 0.0, 0.0), (0.1, 0.0, math.inf)],
)
def test_the_gain_is_the_ratio_of_the_errors(start, error, gain):
    stage = StageNote("b.0", "image", 0, (), None, 0, start, error)
    assert stage.gain_db == pytest.approx(gain)
