# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Evaluations in the terminal: accuracy before and after, and the embedding spaces compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group

from qkit.report.evaluation import Metric
from qkit.report.figures import FIGURES, figure_name, read_figure
from qkit.report.names import source_name
from qkit.report.space import Space
from qkit.report.terminal.cells import add_columns, plain_table, titled

SPACE_NOTE = (
    "cos: mean cosine of float and quantized embeddings; KL of image-text probabilities, nats; "
    "top-1: % same answer; churn: % of the top 10 that changed; gap: distance of the towers' "
    "means; ECE: % of misplaced confidence; scale: the factor on the logit scale that fits best"
)


def metric_table(metrics: Sequence[Metric]) -> Group:
    """Before and after, one table for all evaluations."""
    table = plain_table()
    table.add_column("data", overflow="fold")
    names = ("figure", "float", "quantized", "change", "same answer")
    add_columns(table, names, left=("figure",))
    for metric in metrics:
        for i, figure in enumerate(FIGURES[metric.task]):
            table.add_row(*_metric_row(metric, figure, first=i == 0))
    return titled("accuracy, %", table)


def space_table(spaces: Mapping[str, Space], title: str) -> Group:
    """Embedding spaces, one a row."""
    table = plain_table()
    table.padding = (0, 1, 0, 0)  # nine columns in 80
    table.add_column("", overflow="fold", min_width=14)
    names = ("img cos", "txt cos", "KL", "top-1", "churn", "gap", "ECE", "scale")
    add_columns(table, names)
    for name, space in spaces.items():
        table.add_row(name, *space_row(space))
    return titled(title, table)


def space_row(space: Space) -> tuple[str, ...]:
    """The figures of a space as cells."""
    ece = ""
    if space.ece_float is not None and space.ece_quantized is not None:
        ece = f"{100 * space.ece_float:.1f}→{100 * space.ece_quantized:.1f}"
    return (
        f"{space.image_cosine:.4f}",
        f"{space.text_cosine:.4f}",
        f"{space.logit_kl:.3g}",
        f"{100 * space.top1_agreement:.1f}",
        f"{100 * space.churn:.1f}",
        f"{space.gap_float:.2f}→{space.gap_quantized:.2f}",
        ece,
        f"{space.scale_drift:.2f}",
    )


def _metric_row(metric: Metric, figure: str, first: bool) -> tuple[str, ...]:
    after = read_figure(metric.quantized, figure)
    shown = f"{source_name(metric.data)}, {metric.samples} images" if first else ""
    skipped = f", {metric.skipped} skipped" if first and metric.skipped else ""
    name = figure_name(figure)
    if metric.float is None:
        return shown + skipped, name, "", f"{100 * after:.1f}", "", ""
    before = read_figure(metric.float, figure)
    agreement = f"{100 * metric.agreement:.1f}" if first and metric.agreement is not None else ""
    return (
        shown + skipped,
        name,
        f"{100 * before:.1f}",
        f"{100 * after:.1f}",
        f"{100 * (after - before):+.1f}",
        agreement,
    )
