# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The strip of stages: every stage once, brackets around groups, bars at the joints."""

import re
from dataclasses import replace

import pytest

from qkit.calibration.protocol import StageNote
from qkit.report.partition import PartitionReport
from qkit.report.terminal.partition import PartitionStrip, print_partition

SIZES = (3, 1, 2, 2, 3, 1, 1, 3)


def cut(sizes, name="visual.blocks.{block}.{half}"):
    """Half blocks in groups of so many, dependencies from 1 up in steps of 0.1."""
    groups = [number for number, size in enumerate(sizes) for _ in range(size)]
    stages = []
    for i, group in enumerate(groups):
        where = name.format(block=i // 2, half=("attn", "mlp")[i % 2])
        depends = None if i + 1 == len(groups) else 1 + i / 10
        stages.append(StageNote(where, "image", i // 2, (), depends, group, 0.2, 0.1))
    return tuple(stages)


def drawn(lines):
    """Groups of labels as the brackets have them, all lines joined."""
    rows = [line[2:] for line in lines if re.match(r"  (\[| )[am]?\d", line)]
    return [tuple(inside.split()) for inside in re.findall(r"\[([^][]*)\]", "".join(rows))]


def expected(sizes):
    names = iter(f"{'am'[i % 2]}{i // 2}" for i in range(sum(sizes)))
    return [tuple(next(names) for _ in range(size)) for size in sizes]


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize("sizes", [SIZES, SIZES * 3, (48,), (1,) * 48, (2,)])
def test_every_stage_stands_once_in_the_brackets_of_its_group(lines, sizes, width):
    shown = lines(PartitionStrip(cut(sizes), 1.5), width)
    assert drawn(shown) == expected(sizes)
    bars = "".join(shown[1::2])
    assert len(re.findall(r"([▁▂▃▄▅▆▇█])\1", bars)) == sum(sizes) - 1


def test_a_deep_tower_takes_fewer_lines_where_there_is_room(lines):
    strip = PartitionStrip(cut(SIZES * 3), 1.5)
    assert len(lines(strip, 160)) < len(lines(strip, 80)) <= 1 + 2 * 5


def test_a_group_is_not_cut_unless_it_is_longer_than_a_line(lines):
    shown = lines(PartitionStrip(cut((4,) * 12), 1.5), 80)
    assert all(line.endswith("]") for line in shown[2::2])
    longer = lines(PartitionStrip(cut((48,)), 1.5), 80)
    assert not longer[2].endswith("]")
    assert longer[-1].endswith("]")


def test_bars_stand_at_the_joint_and_grow_with_the_dependency(lines):
    title, bars, brackets = lines(PartitionStrip(cut((2, 2)), 1.1))
    assert title == "image: 4 stages in 2 groups, ▁ 1.00 to █ 1.20 nats, threshold 1.10 ▅"
    assert brackets == "  [a0  m0][a1  m1]"
    assert bars == "     ▁▁  ▅▅  ██"


def test_a_threshold_beyond_the_bars_has_no_height_and_none_is_not_said(lines):
    stages = cut((2, 2))
    assert lines(PartitionStrip(stages, 2.5))[0].endswith(", threshold 2.50")
    assert lines(PartitionStrip(stages, None))[0].endswith(" nats")


def test_equal_dependencies_are_full_bars(lines):
    stages = [replace(stage, dependency=stage.dependency and 1.5) for stage in cut((3,))]
    assert lines(PartitionStrip(stages, 1.5))[1].split() == ["██", "██"]


def test_whole_blocks_have_their_number_only(lines):
    stages = [replace(s, name=f"visual.blocks.{i}", block=i) for i, s in enumerate(cut((2, 1)))]
    assert lines(PartitionStrip(stages, 1.5))[2] == "  [0  1][2]"


def test_a_single_stage_has_no_dependency_to_draw(lines):
    assert lines(PartitionStrip(cut((1,)), None)) == ["image: 1 stages in 1 groups", "", "  [0]"]


@pytest.fixture
def searched(model_report, layer):
    """Two towers of one block each, the layers of the image tower out of order, and a conv."""
    image = [
        replace(stage, layers=(f"visual.blocks.0.{half}.fc",))
        for stage, half in zip(cut((1, 1)), ("attn", "mlp"), strict=True)
    ]
    text = replace(image[0], name="blocks.0", tower="text", layers=("blocks.0.fc",))
    layers = [layer(name=s.layers[0], tower=s.tower, search_group=s.group) for s in (*image, text)]
    conv = layer(name="visual.conv1", block=None)
    stages = PartitionReport((*image, text), {"image": 1.5, "text": 1.25})
    return model_report(layers=(conv, *layers), partition=stages)


def test_both_towers_have_a_strip_and_a_table(lines, searched):
    text = "\n".join(lines(lambda console: print_partition(searched, console, searched.layers)))
    assert re.findall(r"^(\w+): \d stages? in", text, re.MULTILINE) == ["image", "text"]
    assert re.findall(r"^(\w+) tower, layer by", text, re.MULTILINE) == ["image", "text"]
    assert text.count("[ ]: searched together") == 1
    assert "conv1" not in text


def test_only_the_layers_asked_for_are_in_the_table(lines, searched):
    some = [searched.layers[2], searched.layers[0]]
    text = "\n".join(lines(lambda console: print_partition(searched, console, some)))
    assert "text" not in text
    assert drawn(text.splitlines()) == [("a0",), ("m0",)]
    assert "mlp.fc" in text
    assert "attn.fc" not in text


def test_no_table_where_no_layer_of_a_group_is_asked_for(lines, searched):
    shown = lines(lambda console: print_partition(searched, console, searched.layers[:1]))
    assert len(shown) == 1 + 2 + 1
    assert not any("layer by layer" in line or "start" in line for line in shown)
