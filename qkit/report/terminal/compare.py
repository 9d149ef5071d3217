# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Several reports side by side in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from string import ascii_uppercase

from rich.console import Console, Group
from rich.text import Text

from qkit.report.differences import LayerDifference
from qkit.report.evaluation import Metric
from qkit.report.figures import FIGURES, read_figure
from qkit.report.model import ModelReport
from qkit.report.names import place, short_name
from qkit.report.terminal.cells import add_columns, db, plain_table, titled

MOST_WITH_CHANGES = 4  # runs; more than that and 80 columns hold their figures only
SHORT = {"top1": "top-1", "image_to_text.r1": "R@1"}


def print_comparison(
    reports: Mapping[str, ModelReport],
    console: Console,
    differences: Sequence[LayerDifference],
    top: int | None,
) -> None:
    """Print metrics and sizes of all runs, then the layers that differ most."""
    for letter, (name, report) in zip(ascii_uppercase, reports.items(), strict=False):
        console.print(Text(f"{letter}  {name}: {report.label}, {report.model}", style="bold"))
    console.print()
    named = dict(zip(ascii_uppercase, reports.values(), strict=False))
    console.print(comparison_table(named, "% right, and the change against float"))
    console.print()
    console.print(_tower_table(named))
    console.print()
    console.print(_layer_table(list(named), differences, top))


def comparison_table(reports: Mapping[str, ModelReport], title: str) -> Group:
    """One row a report: first figure of each evaluation, and size; the float model on top.

    Evaluations that a report does not hold are blank; there is no row of the float model where the
    reports are of different ones.
    """
    table = plain_table()
    table.add_column("", overflow="fold")
    sources = {m.data: m for report in reports.values() for m in report.metrics}
    for metric in sources.values():
        add_columns(table, (_heading(metric), ""))
    add_columns(table, ("size\nMB",))
    if len({report.model for report in reports.values()}) == 1:
        before = [cell for metric in sources.values() for cell in (_percent(metric, "float"), "")]
        size = next(iter(reports.values())).size["float_bytes"]
        table.add_row("float", *before, f"{size / 1e6:.1f}")
    for name, report in reports.items():
        stored = report.size.get("quantized_bytes")
        mine = {metric.data: metric for metric in report.metrics}
        after = [cell for data in sources for cell in _with_change(mine.get(data))]
        table.add_row(name, *after, "" if stored is None else f"{stored / 1e6:.1f}")
    return titled(title, table)


def _tower_table(reports: Mapping[str, ModelReport]) -> Group:
    """Embedding cosine of both towers and coverage."""
    table = plain_table()
    add_columns(table, ("", "image", "text", "weights %", "MACs %"), left=("",))
    for name, report in reports.items():
        cosines = [report.embedding_cosine.get(tower) for tower in ("image", "text")]
        cells = ["" if value is None else f"{value:.4f}" for value in cosines]
        shares = (report.coverage.weights, report.coverage.macs)
        table.add_row(name, *cells, *(f"{100 * share:.2f}" for share in shares))
    return titled("embedding cosine and coverage", table)


def _layer_table(
    names: Sequence[str], differences: Sequence[LayerDifference], top: int | None
) -> Group:
    shown = differences[:top]
    table = plain_table()
    changes = len(names) <= MOST_WITH_CHANGES
    heads = [cell for name in names[1:] for cell in (name, f"{name}-{names[0]}")[: 1 + changes]]
    add_columns(table, ("where", "layer", names[0], *heads), left=("where", "layer"))
    for entry in shown:
        first, *others = zip(entry.sqnr_db, entry.changes, strict=True)
        cells = [
            cell for value, change in others for cell in (db(value), _gain(change))[: 1 + changes]
        ]
        table.add_row(place(entry.layer), short_name(entry.layer.name), db(first[0]), *cells)
    title = f"SQNR of layers alone, dB, most different first: {len(shown)} of {len(differences)}"
    return titled(title, table)


def _gain(change: float | None) -> str:
    return "" if change is None else f"{change:+.1f}".replace("inf", "∞")


def _heading(metric: Metric) -> str:
    figure = FIGURES[metric.task][0]
    return f"{PurePath(metric.data.partition(':')[2]).name}\n{SHORT[figure]}"


def _percent(metric: Metric, of: str) -> str:
    value = _headline(metric, of)
    return "" if value is None else f"{100 * value:.1f}"


def _with_change(metric: Metric | None) -> tuple[str, str]:
    if metric is None:
        return "", ""
    before, after = _headline(metric, "float"), _headline(metric, "quantized")
    change = "" if before is None or after is None else f"{100 * (after - before):+.1f}"
    return _percent(metric, "quantized"), change


def _headline(metric: Metric, of: str) -> float | None:
    figures = getattr(metric, of)
    return None if figures is None else read_figure(figures, FIGURES[metric.task][0])
