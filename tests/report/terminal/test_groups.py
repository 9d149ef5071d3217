# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The table of layers that were searched together."""

import math

import pytest

from qkit.calibration.protocol import StageNote
from qkit.report.terminal.groups import COLUMNS, clips, group_table

ERRORS = {0: (0.25, 0.2), 1: (1.25e-5, 0.0), 2: (0.125, 0.12501)}


@pytest.fixture
def stages():
    """Block 0 in halves searched together, block 10 in halves by themselves."""
    rows = (("0.attn", 0, 0), ("0.mlp", 0, 0), ("10.attn", 10, 1), ("10.mlp", 10, 2))
    inside = {"attn": ("attn.q_proj", "attn.sdpa"), "mlp": ("mlp.c_fc",)}
    return [
        StageNote(
            f"visual.resblocks.{name}",
            "image",
            block,
            tuple(f"visual.resblocks.{block}.{x}" for x in inside[name.partition(".")[2]]),
            None if group == 2 else 1.5 + group,
            group,
            *ERRORS[group],
        )
        for name, block, group in rows
    ]


@pytest.fixture
def layers(stages, layer, sdpa):
    """All layers of the stages."""
    return [
        (sdpa if name.endswith("sdpa") else layer)(
            name=name, block=stage.block, dependency=stage.dependency, search_group=stage.group
        )
        for stage in stages
        for name in stage.layers
    ]


def cells(lines):
    return [line.split() for line in lines]


@pytest.mark.parametrize("width", [80, 160])
def test_every_layer_has_a_row_with_its_figures(lines, stages, layers, width):
    title, header, *rows = lines(group_table(stages, layers), width)
    assert title.startswith("image tower")
    assert header.split() == [*COLUMNS]
    assert cells(rows) == [
        ["0", "a0", "attn.q_proj", "1.50", "97", "75", "0.250", "0.200", "+0.97"],
        ["0", "a0", "attn.sdpa", "1.50", "75/75/75/75"],
        ["0", "m0", "mlp.c_fc", "1.50", "97", "75"],
        ["1", "a10", "attn.q_proj", "2.50", "97", "75", "1.25e-05", "0.00", "+∞"],
        ["1", "a10", "attn.sdpa", "2.50", "75/75/75/75"],
        ["2", "m10", "mlp.c_fc", "97", "75", "0.125", "0.125", "+0.00"],
    ]


def test_layers_left_out_leave_the_gain_with_the_first_that_is_shown(lines, stages, layers):
    rows = cells(lines(group_table(stages, layers[2:3]))[2:])
    assert rows == [["0", "m0", "mlp.c_fc", "1.50", "97", "75", "0.250", "0.200", "+0.97"]]


def test_what_a_layer_keeps_of_its_ranges(layer, sdpa, floating, tensor):
    token = {"granularity": "token", "span": None}
    assert clips(layer()) == ("97", "75")
    assert clips(layer(tensors=(tensor(role="weight", span=1.0), tensor(**token)))) == (
        "100",
        "per token",
    )
    roles = ("query", "key", "value", "probs")
    spans = (1.0, 0.5, None, 0.994)
    mixed = tuple(tensor(role=r, span=s) for r, s in zip(roles, spans, strict=True))
    assert clips(sdpa(tensors=mixed)) == ("", "100/50/per token/99")
    assert clips(sdpa(tensors=tuple(tensor(role=r, **token) for r in roles))) == ("", "per token")
    assert clips(floating()) == ("", "")


def test_a_group_that_cannot_lose_more_says_no_gain(lines, stages, layers):
    exact = [StageNote("b.0", "image", 0, (layers[0].name,), math.pi, 0, 0.0, 0.0)]
    assert cells(lines(group_table(exact, layers)))[2][-3:] == ["0.00", "0.00", "+0.00"]
