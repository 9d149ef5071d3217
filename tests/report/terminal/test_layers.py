# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Layers in narrow and wide terminals: every figure stands in the layer's line."""

import re
from dataclasses import replace

import pytest

from qkit.report.explain import explain
from qkit.report.layer import HistogramReport
from qkit.report.terminal.layers import LayerTable, bits, shown_tensor

WIDTHS = [80, 100, 139, 140, 160, 220]


@pytest.fixture
def layers(layer, sdpa, floating, tensor):
    """One of each sort, with words."""
    token = tensor(granularity="token", grid_low=None, grid_high=None, step=None, span=None)
    by_token = layer(name="visual.proj", block=None, tensors=(token,), clipped=None, act_bits=7)
    return list(explain([floating(), layer(local_sqnr_db=3.5), sdpa(), by_token], ()))


def line_of(lines, name):
    (found,) = (line for line in lines if re.search(rf"(^|\s){re.escape(name)}(\s|$)", line))
    return found


def flat(lines):
    return " ".join(" ".join(lines).split())


@pytest.mark.parametrize("width", WIDTHS)
def test_every_figure_of_a_layer_is_in_its_line(lines, layers, width):
    shown = lines(LayerTable(layers, "title"), width)
    cells = line_of(shown, "mlp.c_fc").split()
    assert cells[:5] == ["image", "2", "mlp.c_fc", "3", "4"]
    assert re.fullmatch("█+[▏▎▍▌▋▊▉]?", cells[5])
    assert cells[6:11] == ["3.5", "12.6", "74%", "1.35", "75"]
    cells = line_of(shown, "attn.sdpa").split()
    assert cells[3] == "8"  # it has no weight
    exact = line_of(shown, "visual.conv1")
    assert exact.split()[2:7] == ["f", "f", "exact", "exact", "0%"]
    assert "token" in line_of(shown, "visual.proj").split()


@pytest.mark.parametrize("width", WIDTHS)
def test_title_header_and_legend_are_there(lines, layers, width):
    shown = lines(LayerTable(layers, "some layers"), width)
    assert shown[0].strip() == "some layers"
    header = "where layer W A error alone arrives makes clip% kept% values"
    assert header in flat(shown)
    legend = flat(shown).rpartition("alone: SQNR")[2]
    for name in ("arrives:", "makes:", "clip, kept:"):
        assert name in legend


@pytest.mark.parametrize("width", [80, 160])
def test_the_words_of_every_layer_are_there(lines, layers, width):
    shown = lines(LayerTable(layers, ""), width)
    if width == 160:  # they fold in a column of their own
        column = shown[1].index("cause")
        shown = [line[column:] for line in shown[2:]]
    for layer in layers:
        assert f"{layer.cause}: {layer.evidence}" in flat(shown)
        assert f"→ {layer.remedy}" in flat(shown)


def test_in_a_narrow_terminal_the_columns_of_all_lines_are_aligned(lines, layers):
    shown = lines(LayerTable(layers, ""), 80)
    header = shown[1]
    for name, text in (("mlp.c_fc", "12.6"), ("attn.sdpa", "12.6"), ("visual.conv1", "exact")):
        line = line_of(shown, name)
        assert line.index(name) == header.index("layer")
        end = header.index("arrives") + len("arrives")
        assert line[:end].endswith(text)


def test_a_long_name_gives_way_in_a_narrow_terminal_only(lines, layer, large):
    worst = replace(large.layers[-1], made=1.0, clipped=1.0, cumulative_sqnr_db=-12.5)
    narrow = lines(LayerTable([worst, layer(block=31)], ""), 80)
    (line,) = (line for line in narrow if "visual.trunk" in line)
    assert "…" in line
    for figure in ("-12.8", "-12.5", "100%", "100.00"):
        assert figure in line.split()
    assert worst.name in flat(lines(LayerTable([worst], ""), 220))


@pytest.mark.parametrize("width", [80, 160])
def test_all_layers_of_a_large_model_fit(lines, large, width):
    shown = lines(LayerTable(large.layers, ""), width)
    for tower in ("image", "text"):
        for i in range(32):
            mine = [line for line in shown if re.match(rf"{tower} {i} ", line)]
            assert len(mine) == 2
            assert all(f" {30.25 - i:.1f} " in line for line in mine)


def test_a_worse_layer_has_a_longer_bar(lines, layer):
    table = [layer(name=f"a{i}", local_sqnr_db=sqnr) for i, sqnr in enumerate((2.0, 20.0, 33.0))]
    shown = lines(LayerTable(table, ""), 80)
    bars = [line_of(shown, f"a{i}").count("█") for i in range(3)]
    assert bars[0] > bars[1] > bars[2] > 0


def test_an_attention_shows_its_worst_operand(sdpa, tensor):
    roles = ("query", "key", "value", "probs")
    layer = sdpa(tensors=tuple(tensor(role=role) for role in roles))
    assert shown_tensor(layer).role == "probs"  # 5.23 dB
    assert shown_tensor(replace(layer, trials={"key float": 1.0})).role == "key"


def test_a_layer_shows_its_input_or_else_its_weight(layer, floating):
    assert shown_tensor(layer()).role == "input"
    assert shown_tensor(layer(tensors=layer().tensors[:1])).role == "weight"
    assert shown_tensor(floating()) is None


def test_the_sparkline_is_of_the_tensor_shown(lines, layer, tensor):
    spread = tensor(values=HistogramReport(0.0, 1.0, (*[9] * 8, *[0] * 48, *[9] * 8)))
    shown = lines(LayerTable([layer(tensors=(spread,))], ""), 80)
    assert line_of(shown, "mlp.c_fc").endswith("█      █")


@pytest.mark.parametrize(("number", "has", "said"), [(4, True, "4"), (None, True, "f")])
def test_bits_of_an_operand(number, has, said):
    assert bits(number, has_one=has) == said
    assert bits(number, has_one=False) == ""
