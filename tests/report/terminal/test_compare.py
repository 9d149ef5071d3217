# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Reports side by side."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

import qkit
from qkit.report.evaluation import Metric
from qkit.report.terminal.compare import comparison_table

FLOAT, LESS = {"top1": 0.9, "top5": 1.0}, {"top1": 0.45, "top5": 0.8}
BOTH = {"image_to_text": {"r1": 0.5}, "text_to_image": {"r1": 0.4}}


@pytest.fixture
def report(tiny, shapes):
    overrides = qkit.Overrides(samples=2)
    data = f"captions:{shapes / 'captions.csv'}"
    plain = qkit.calibrate(tiny, data, method="minmax", overrides=overrides).report
    metrics = (
        Metric("demo:labelled", "classification", LESS, FLOAT, 0.5, 100),
        Metric("demo:pairs", "retrieval", BOTH, BOTH, 1.0, 100),
    )
    return replace(plain, metrics=metrics, size={"float_bytes": 8_000_000})


def printed(table):
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    return console.file.getvalue().splitlines()


def test_float_comes_first_and_every_report_shows_its_change(report):
    stored = replace(report, size={"float_bytes": 8_000_000, "quantized_bytes": 1_100_000})
    lines = printed(comparison_table({"one": report, "two": stored}, "what happened"))
    assert lines[0].strip() == "what happened"
    float_row, one, two = (line.split() for line in lines[-3:])
    assert float_row == ["float", "90.0", "50.0", "8.0"]
    assert one == ["one", "45.0", "-45.0", "50.0", "+0.0"]
    assert two == ["two", "45.0", "-45.0", "50.0", "+0.0", "1.1"]


def test_without_float_figures_no_change_is_shown(report):
    alone = tuple(replace(metric, float=None, agreement=None) for metric in report.metrics)
    lines = printed(comparison_table({"one": replace(report, metrics=alone)}, ""))
    assert lines[-1].split() == ["one", "45.0", "50.0"]
    assert lines[-2].split() == ["float", "8.0"]
