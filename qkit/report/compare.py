# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Several reports side by side in the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from qkit.report.model import Metric, ModelReport
from qkit.report.render import read_figure

HEADLINES = {"classification": ("top1", "top-1"), "retrieval": ("image_to_text.r1", "R@1")}


def comparison_table(reports: Mapping[str, ModelReport], title: str) -> Table:
    """One row for the float model and one a report: first figure of each evaluation, and size.

    All reports must hold the same evaluations of the same float model.
    """
    first = next(iter(reports.values()))
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    table.add_column("", overflow="fold")
    for metric in first.metrics:
        table.add_column(_heading(metric), justify="right", no_wrap=True)
    table.add_column("size\nMB", justify="right", no_wrap=True)
    before = [_before(metric) for metric in first.metrics]
    table.add_row("float", *before, f"{first.size['float_bytes'] / 1e6:.1f}")
    for name, report in reports.items():
        stored = report.size.get("quantized_bytes")
        size = "" if stored is None else f"{stored / 1e6:.1f}"
        table.add_row(name, *(_after(metric) for metric in report.metrics), size)
    return table


def _heading(metric: Metric) -> str:
    return f"{metric.data}\n{HEADLINES[metric.task][1]} %"


def _before(metric: Metric) -> str:
    if metric.float is None:
        return ""
    return f"{100 * read_figure(metric.float, HEADLINES[metric.task][0]):.1f}" + " " * 8


def _after(metric: Metric) -> str:
    name = HEADLINES[metric.task][0]
    after = 100 * read_figure(metric.quantized, name)
    if metric.float is None:
        return f"{after:.1f}"
    return f"{after:.1f} ({after - 100 * read_figure(metric.float, name):+.1f})"
