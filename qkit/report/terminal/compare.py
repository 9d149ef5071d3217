# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Several reports side by side in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

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
        table.add_column("", justify="right", no_wrap=True)
    table.add_column("size\nMB", justify="right", no_wrap=True)
    before = [cell for metric in first.metrics for cell in (_percent(metric, "float"), "")]
    table.add_row("float", *before, f"{first.size['float_bytes'] / 1e6:.1f}")
    for name, report in reports.items():
        stored = report.size.get("quantized_bytes")
        size = "" if stored is None else f"{stored / 1e6:.1f}"
        after = [cell for metric in report.metrics for cell in _with_change(metric)]
        table.add_row(name, *after, size)
    return table


def _heading(metric: Metric) -> str:
    return f"{PurePath(metric.data.partition(':')[2]).name}\n{HEADLINES[metric.task][1]}"


def _percent(metric: Metric, of: str) -> str:
    value = _headline(metric, of)
    return "" if value is None else f"{100 * value:.1f}"


def _with_change(metric: Metric) -> tuple[str, str]:
    before, after = _headline(metric, "float"), _headline(metric, "quantized")
    change = "" if before is None or after is None else f"{100 * (after - before):+.1f}"
    return _percent(metric, "quantized"), change


def _headline(metric: Metric, of: str) -> float | None:
    figures = getattr(metric, of)
    return None if figures is None else read_figure(figures, HEADLINES[metric.task][0])
