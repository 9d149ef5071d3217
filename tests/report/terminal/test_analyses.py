# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Analyses in the terminal: the most sensitive layer first, all figures in reach."""

from dataclasses import replace

import pytest

from qkit.report.analyses import Analyses, LayerSensitivity, Parts, Sensitivity
from qkit.report.terminal.analyses import print_analyses, sensitivity_table

DATA = "captions:long/path/to/karpathy_test.csv"


@pytest.fixture
def sensitivity(large, space):
    """The first six layers of a large model; the fourth costs most."""
    kls = (0.0, 0.002, 0.001, 0.0123, 0.004, 0.0031)
    found = tuple(
        LayerSensitivity(
            layer.name,
            space(logit_kl=kl, image_cosine=1 - kl, text_cosine=0.5, top1_agreement=1 - 10 * kl),
            space(logit_kl=0.3 - 2 * kl),
        )
        for layer, kl in zip(large.layers, kls, strict=False)
    )
    return Sensitivity(DATA, "d", 32, space(logit_kl=0.3), found)


@pytest.fixture
def analysed(large, sensitivity, space):
    spaces = {name: space(logit_kl=0.1) for name in ("all", "weights", "attention operands")}
    return replace(large, analyses=Analyses(sensitivity, Parts(DATA, "d", 32, spaces)))


@pytest.fixture
def table(lines, sensitivity, large):
    """Rows of the sensitivity's table."""
    named = {layer.name: layer for layer in large.layers}

    def show(width, top=None, layers=named, found=sensitivity):
        return lines(sensitivity_table(found, layers, top), width)

    return show


def rows(shown):
    return [line for line in shown if line.startswith(("image", "text"))]


@pytest.mark.parametrize("width", [80, 160])
def test_layers_are_ordered_by_what_they_cost_alone(table, width):
    shown = rows(table(width))
    assert [line.split()[-5] for line in shown] == ["12.3", "4", "3.1", "2", "1", "0"]


@pytest.mark.parametrize("width", [80, 160])
def test_every_figure_is_in_its_row(table, width):
    shown = rows(table(width))
    assert shown[0].split()[-5:] == ["12.3", "0.9877", "88%", "275", "+8%"]
    assert shown[0].split()[:3] == ["image", "1", "mlp.c_fc"]
    assert shown[-1].split()[-5:] == ["0", "1.0000", "100%", "300", "+0%"]


def test_bars_are_as_long_as_the_share_of_the_worst(table):
    lengths = [line.count("█") for line in rows(table(160))]
    assert lengths[0] == 12
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] == 0


def test_only_the_layers_selected_are_shown_as_many_as_asked_for(table, large):
    assert len(rows(table(80, top=2))) == 2
    some = {layer.name: layer for layer in large.layers[1:3]}
    assert [line.split()[2] for line in rows(table(80, layers=some))] == ["mlp.c_fc", "attn.sdpa"]


def test_the_title_says_of_what_and_how_much_all_of_it_costs(table):
    title = " ".join(" ".join(table(80)).split()).partition(" where ")[0]
    assert "KL in 1e-3 nats: 32 pairs of captions:karpathy_test.csv, 6 layers" in title
    assert title.endswith("all quantized: 300")


def test_a_text_layer_shows_the_texts_cosine(table, large, sensitivity):
    text = next(layer for layer in large.layers if layer.tower == "text")
    entry = replace(sensitivity.layers[0], name=text.name)
    (line,) = rows(table(80, found=replace(sensitivity, layers=(entry,))))
    assert line.split()[-4] == "0.5000"


def test_where_nothing_is_lost_at_all_nothing_is_divided_by_it(table, sensitivity, space):
    lossless = space(logit_kl=0.0)
    exact = tuple(replace(each, alone=lossless, spared=lossless) for each in sensitivity.layers)
    found = replace(sensitivity, whole=lossless, layers=exact)
    assert all("█" not in line and "%" in line for line in rows(table(80, found=found)))


@pytest.mark.parametrize("width", [80, 160])
def test_parts_stand_above_sensitivity_each_with_its_figures(lines, analysed, width):
    text = lines(lambda console: print_analyses(analysed, console, analysed.layers, 3), width)
    flat = " ".join(" ".join(text).split())
    assert "one part quantized, the rest float: 32 pairs of captions:karpathy_test.csv" in flat
    assert flat.index("one part") < flat.index("one layer at a time")
    parts = [line.split() for line in text if line.split()[-1:] == ["0.94"]]
    assert [row[0] for row in parts] == ["all", "weights", "attention"]
    assert all(row[-7:-2] == ["0.9312", "0.9781", "0.1", "64.3", "21.5"] for row in parts)
    assert len(rows(text)) == 3


def test_without_analyses_nothing_is_printed(lines, large):
    assert lines(lambda console: print_analyses(large, console, large.layers, 3)) == []
