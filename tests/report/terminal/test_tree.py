# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Layers as a tree of towers and blocks."""

import math
import re
from dataclasses import replace

import pytest

from qkit.report.terminal.tree import layer_tree


@pytest.fixture
def report(model_report, layer, sdpa, floating, block):
    """A convolution, two image blocks of which one was not measured, and a text projection."""
    layers = (
        floating(),
        layer(name="visual.blocks.0.mlp.c_fc", block=0, local_sqnr_db=3.25),
        sdpa(name="visual.blocks.0.attn.sdpa", block=0),
        layer(name="visual.blocks.1.mlp.c_fc", block=1, local_sqnr_db=29.0),
        layer(name="text_projection", tower="text", block=None, weight_bits=None),
    )
    return model_report(layers=layers, blocks=(block(0, 7.25),))


def depth(line):
    return re.search(r"[^│├└─ ]", line).start() // 4


def test_layers_stand_below_their_blocks_and_towers(lines, report):
    shown = lines(layer_tree(report, report.layers))[1:]
    words = [re.sub(r"[│├└─]", "", line).split() for line in shown]
    assert [(depth(line), name) for line, (name, *_) in zip(shown, words, strict=True)] == [
        (1, "image"),
        (2, "visual.conv1"),
        (2, "block"),
        (3, "mlp.c_fc"),
        (3, "attn.sdpa"),
        (2, "block"),
        (3, "mlp.c_fc"),
        (1, "text"),
        (2, "text_projection"),
    ]
    assert [name[1] for name in words if name[0] == "block"] == ["0", "1"]


def test_each_line_has_its_figures(lines, report):
    shown = lines(layer_tree(report, report.layers))
    assert shown[0].startswith("W3A4 attn8, mse  ViT-B-32:openai")
    assert shown[1].endswith("image tower, embedding cosine 0.9623")
    assert shown[2].split()[-4:] == ["exact", "exact", "Wf", "Af"]
    assert shown[3].split()[-2:] == ["7.2", "2.8"]
    assert shown[4].split()[-4:] == ["3.2", "12.6", "W3", "A4"]
    assert shown[5].split()[-3:] == ["14.3", "12.6", "A8"]
    assert shown[6].split()[-2:] == ["block", "1"]  # nothing is known of it
    assert shown[9].split()[-4:] == ["14.3", "12.6", "Wf", "A4"]


def test_worse_layers_have_longer_bars(lines, report):
    shown = lines(layer_tree(report, report.layers))
    assert shown[4].count("█") > shown[5].count("█") > shown[7].count("█") > 0
    assert "█" not in shown[2]


def test_only_the_layers_asked_for_are_shown_in_module_order(lines, report):
    some = [report.layers[3], report.layers[1]]
    shown = lines(layer_tree(report, some))
    assert [line.split()[-4] for line in shown if "mlp.c_fc" in line] == ["3.2", "29.0"]
    assert not any("text" in line or "conv1" in line for line in shown)
    assert len(shown) == 1 + 1 + 2 * 2


@pytest.mark.parametrize("width", [80, 160])
def test_a_large_model_fits_and_long_names_stay_apart_from_their_bars(lines, large, width):
    shown = lines(layer_tree(large, large.layers), width)
    assert len(shown) == 1 + 2 + 64 + len(large.layers)
    (line,) = (line for line in shown if ".inner" in line)
    assert re.search(r"visual\.trunk\.patch_embed\.proj\.inner █+ +-12\.8 ", line)


def test_figures_of_one_depth_stand_in_one_column(lines, report):
    shown = lines(layer_tree(report, report.layers))
    ends = {shown[i].index("12.6") for i in (4, 5, 7)}
    assert len(ends) == 1
    assert shown[3].index(" 2.8") == ends.pop()


def test_brackets_in_names_are_no_markup(lines, report):
    named = replace(report, label="[bold]", model="local-dir:/models[old]/x")
    exact = replace(report.layers[0], inherited_sqnr_db=math.inf)
    shown = lines(layer_tree(replace(named, layers=(exact,)), [exact]))
    assert shown[0].startswith("[bold]  local-dir:/models[old]/x")
