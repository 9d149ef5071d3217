# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A whole report in the terminal: nothing that was measured is cut off, whatever is missing."""

import math
from dataclasses import replace

import pytest

from qkit.graph.coverage import Coverage, LeftFloat
from qkit.report.analyses import Analyses
from qkit.report.select import worst_first
from qkit.report.terminal.cells import HEIGHTS
from qkit.report.terminal.summary import HeatStrips, print_report, print_spaces

METRICS = {"image_to_text": {"r1": 0.1, "r5": 0.2, "r10": 0.3}}
METRICS["text_to_image"] = {"r1": 0.4, "r5": 0.5, "r10": 0.6}


@pytest.fixture
def shown(lines):
    """Lines of a report, its worst layers last."""

    def show(report, width=80):
        worst = worst_first(report.layers)[:4]
        return lines(lambda console: print_report(report, console, worst), width)

    return show


def starting(lines, *words):
    """Cells of the one line that starts with some words."""
    (found,) = (line for line in lines if line.split()[: len(words)] == list(words))
    return found.split()[len(words) :]


@pytest.mark.parametrize("width", [80, 160])
def test_what_a_large_model_is_and_how_good(shown, large, width):
    lines = shown(large, width)
    assert lines[0].split() == ["W3A4", "attn8,", "mse", "ViT-B-32:openai"]
    assert "8.4 MB in fp32, 2.1 MB stored, 4.0x smaller" in lines[1]
    assert "99.21% of weights, 99.83% of MACs" in lines[2]
    assert starting(lines, "biases") == ["0.79%", "too", "small"]
    top1 = ["1000", "images", "top-1", "85.6", "71.2", "-14.4", "79.5"]
    assert starting(lines, "classes:pets,") == top1


@pytest.mark.parametrize("width", [80, 100, 160])
def test_every_figure_of_a_space_fits(lines, large, width):
    text = lines(lambda console: print_spaces(large, console), width)
    figures = ["0.9312", "0.9781", "1.23e-05", "64.3", "21.5", "0.82→0.79", "12.3→23.4", "0.94"]
    (line,) = (line for line in text if "1.23e-05" in line)
    assert line.split()[-8:] == figures
    header = next(line for line in text if "img cos" in line)
    assert " ".join(header.split()) == "img cos txt cos KL top-1 churn gap ECE scale"
    assert "scale: the factor on the logit scale" in " ".join(" ".join(text).split())


@pytest.mark.parametrize("width", [80, 160])
def test_every_figure_of_a_tower_fits(shown, large, width):
    lines = shown(large, width)
    image = next(line for line in lines if line.startswith("image") and "0.9623" in line)
    assert image.split()[:5] == ["image", "66", "0.9623", "15.2", "-12.8"]
    assert "visual.trunk" in image
    text = next(line for line in lines if line.startswith("text") and "0.9887" in line)
    assert text.split()[:5] == ["text", "64", "0.9887", "15.2", "-0.8"]
    assert "block 31" in text


@pytest.mark.parametrize("width", [80, 160])
def test_heat_has_one_cell_a_block_below_its_number(lines, large, width):
    text = lines(HeatStrips(large.blocks), width)
    cell = 1 if width == 80 else 3
    ruler, *strips = text[1:]
    assert len(strips) == 4
    for strip in strips:
        cells = strip[15 : 15 + 32 * cell : cell]
        assert len(strip) == 15 + 32 * cell
        heights = [HEIGHTS.index(glyph) for glyph in cells]
        assert heights == sorted(heights)
        assert 0 < heights[0] < heights[-1]
    assert [strip[:15].split() for strip in strips] == [
        ["image", "makes"],
        ["arrives"],
        ["text", "makes"],
        ["arrives"],
    ]
    for index in range(0, 32, 5):
        assert ruler[15 + index * cell :].startswith(str(index))


def test_towers_of_unlike_depth_have_strips_of_their_own_length(lines, block):
    blocks = [block(i) for i in range(12)] + [block(i, math.inf, "text") for i in range(3)]
    text = lines(HeatStrips(blocks), 80)
    assert [len(line) - 15 for line in text[2:]] == [36, 36, 9, 9]
    assert text[4].endswith("▁" * 9)


@pytest.mark.parametrize("width", [80, 160])
def test_a_report_with_nothing_but_layers_is_shown(shown, model_report, layer, width):
    bare = model_report(
        metrics=(),
        embedding_cosine={},
        size={"float_bytes": 8_400_000},
        coverage=Coverage(1.0, 1.0, 10, 10, ()),
        layers=(layer(),),
    )
    text = shown(bare, width)
    assert text[1].strip() == "size: 8.4 MB in fp32"
    assert not any("accuracy" in line or "error by block" in line for line in text)
    assert any("mlp.c_fc" in line for line in text)


def test_evaluations_without_a_float_model_have_no_change(shown, large, metric):
    alone = metric(float=None, agreement=None, skipped=3)
    lines = shown(replace(large, metrics=(alone,)), 160)
    row = ["1000", "images,", "3", "skipped", "top-1", "71.2"]
    assert starting(lines, "classes:pets,") == row


def test_retrieval_has_six_figures_and_one_agreement(shown, large, metric):
    pairs = metric(data="captions:a/b.csv", task="retrieval", quantized=METRICS, float=METRICS)
    lines = shown(replace(large, metrics=(pairs,)), 160)
    rows = [line.split() for line in lines if " R@" in line]
    assert [row[-3:] for row in rows[1:]] == [
        [f"{value:.1f}", f"{value:.1f}", "+0.0"] for value in (20, 30, 40, 50, 60)
    ]
    assert rows[0][-4:] == ["10.0", "10.0", "+0.0", "79.5"]


def test_of_what_is_left_in_float_the_largest_is_shown_first(shown, large):
    left = tuple(LeftFloat(f"part{i}", i, 100 if i == 2 else 0, "why") for i in range(9))
    report = replace(large, coverage=Coverage(0.9, 0.8, 1000, 1000, left))
    rows = [line.split() for line in shown(report) if line.startswith("part")]
    assert [row[0] for row in rows] == ["part2", "part8", "part7", "part6", "part5", "part4"]
    assert rows[0][1:] == ["0.20%", "10.00%", "why"]
    assert rows[1][1:] == ["0.80%", "why"]


def test_spaces_that_were_asked_for_stand_below_those_of_evaluations(lines, large, space):
    report = replace(large, analyses=Analyses(spaces={"images:x/holiday": space(churn=0.999)}))
    text = lines(lambda console: print_spaces(report, console), 160)
    names = [line.split()[0] for line in text if "0.9312" in line]
    assert names == ["classes:pets", "classes:aeroplanes", "images:holiday"]
    assert any("99.9" in line for line in text)


def test_without_spaces_nothing_is_said_of_them(lines, model_report):
    assert lines(lambda console: print_spaces(model_report(), console)) == []


def test_the_number_of_layers_shown_is_said(shown, large):
    assert any(f"4 of {len(large.layers)}" in line for line in shown(large))
