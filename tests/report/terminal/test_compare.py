# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Reports side by side."""

import math
from dataclasses import replace

import pytest

from qkit.report.differences import compare_layers
from qkit.report.evaluation import Metric
from qkit.report.terminal.compare import comparison_table, print_comparison

FLOAT, LESS = {"top1": 0.9, "top5": 1.0}, {"top1": 0.45, "top5": 0.8}
BOTH = {"image_to_text": {"r1": 0.5}, "text_to_image": {"r1": 0.4}}


@pytest.fixture
def report(model_report):
    metrics = (
        Metric("demo:labelled", "classification", LESS, FLOAT, 0.5, 100),
        Metric("demo:pairs", "retrieval", BOTH, BOTH, 1.0, 100),
    )
    return model_report(metrics=metrics, size={"float_bytes": 8_000_000})


@pytest.fixture
def runs(report, layer, sdpa):
    """Three runs of three layers, one of which a run has not."""

    def run(fc, core, proj, **changes):
        layers = [sdpa(name="visual.blocks.2.attn.sdpa", local_sqnr_db=core)]
        layers.append(layer(name="visual.blocks.2.mlp.c_fc", local_sqnr_db=fc))
        if proj is not None:
            name = {"name": "text_projection", "tower": "text", "block": None}
            layers.append(layer(**name, local_sqnr_db=proj))
        return replace(report, layers=tuple(layers), **changes)

    return {
        "runs/base": run(14.0, 30.0, 8.5, label="W4A4 attn8, mse"),
        "runs/wide": run(18.5, 30.25, None, label="W8A8 attn8, mse"),
        "runs/poor": run(12.0, 30.5, math.inf, label="W4A4 attn8, minmax"),
    }


@pytest.fixture
def compared(lines):
    """Lines of a whole comparison."""

    def show(runs, width=80, top=None):
        differences = compare_layers([report.layers for report in runs.values()])
        return lines(lambda console: print_comparison(runs, console, differences, top), width)

    return show


def test_float_comes_first_and_every_report_shows_its_change(lines, report):
    stored = replace(report, size={"float_bytes": 8_000_000, "quantized_bytes": 1_100_000})
    shown = lines(comparison_table({"one": report, "two": stored}, "what happened"))
    assert shown[0].strip() == "what happened"
    float_row, one, two = (line.split() for line in shown[-3:])
    assert float_row == ["float", "90.0", "50.0", "8.0"]
    assert one == ["one", "45.0", "-45.0", "50.0", "+0.0"]
    assert two == ["two", "45.0", "-45.0", "50.0", "+0.0", "1.1"]


def test_without_float_figures_no_change_is_shown(lines, report):
    alone = tuple(replace(metric, float=None, agreement=None) for metric in report.metrics)
    shown = lines(comparison_table({"one": replace(report, metrics=alone)}, ""))
    assert shown[-1].split() == ["one", "45.0", "50.0"]
    assert shown[-2].split() == ["float", "8.0"]


def test_an_evaluation_that_a_run_has_not_is_blank(lines, report):
    fewer = replace(report, metrics=report.metrics[1:])
    shown = lines(comparison_table({"one": report, "two": fewer}, ""))
    assert shown[-2].split() == ["one", "45.0", "-45.0", "50.0", "+0.0"]
    assert shown[-1].split() == ["two", "50.0", "+0.0"]
    assert shown[-1].index("50.0") == shown[-2].index("50.0")


def test_runs_of_different_models_have_no_float_row(lines, report):
    other = replace(report, model="another")
    shown = lines(comparison_table({"one": report, "two": other}, ""))
    assert not any(line.startswith("float") for line in shown)


def test_runs_without_evaluations_are_compared_by_size(lines, report):
    shown = lines(comparison_table({"one": replace(report, metrics=())}, ""))
    assert [line.split() for line in shown[-2:]] == [["float", "8.0"], ["one"]]


@pytest.mark.parametrize("width", [80, 160])
def test_runs_are_called_by_letters_that_are_explained(compared, runs, width):
    shown = compared(runs, width)
    assert [line.strip() for line in shown[:3]] == [
        "A  runs/base: W4A4 attn8, mse, ViT-B-32:openai",
        "B  runs/wide: W8A8 attn8, mse, ViT-B-32:openai",
        "C  runs/poor: W4A4 attn8, minmax, ViT-B-32:openai",
    ]
    assert ["A", "0.9623", "0.9887", "99.21", "99.83"] in [line.split() for line in shown]


@pytest.mark.parametrize("width", [80, 160])
def test_the_layers_that_differ_most_come_first_with_their_changes(compared, runs, width):
    shown = [line.split() for line in compared(runs, width)]
    header = shown.index(["where", "layer", "A", "B", "B-A", "C", "C-A"])
    assert shown[header + 1 :] == [
        ["text", "text_projection", "8.5", "exact", "+∞"],
        ["image", "2", "mlp.c_fc", "14.0", "18.5", "+4.5", "12.0", "-2.0"],
        ["image", "2", "attn.sdpa", "30.0", "30.2", "+0.2", "30.5", "+0.5"],
    ]


def test_as_many_layers_are_shown_as_asked_for(compared, runs):
    shown = compared(runs, top=1)
    assert shown[-3].endswith("most different first: 1 of 3")
    assert shown[-1].split()[0] == "text"


@pytest.mark.parametrize("width", [80, 160])
def test_long_names_leave_the_figures_of_four_runs_whole(compared, report, large, width):
    worst = large.layers[-1]
    layers = [replace(worst, local_sqnr_db=worst.local_sqnr_db - 2 * i) for i in range(4)]
    runs = {f"run{i}": replace(report, layers=(each,)) for i, each in enumerate(layers)}
    (line,) = (line for line in compared(runs, width) if "visual.tr" in line)
    assert line.split()[-7:] == ["-12.8", "-14.8", "-2.0", "-16.8", "-4.0", "-18.8", "-6.0"]
