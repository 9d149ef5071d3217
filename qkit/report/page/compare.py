# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Several runs' reports as one page; what one of them lacks stays blank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qkit.report.differences import compare_layers
from qkit.report.evaluation import Metric
from qkit.report.model import ModelReport
from qkit.report.page.assemble import assemble
from qkit.report.page.figures import Row, accuracy_rows, space_rows
from qkit.report.page.formats import Unit


@dataclass(frozen=True, slots=True)
class FigureRow:
    """One figure of all runs.

    Attributes:
        label: its name.
        unit: "percent" or "number".
        better: 1 where more is better, -1 where less is, 0 where any change is bad.
        before: the float model's, from the first run that has it.
        after: by run; None where it was not measured.
    """

    label: str
    unit: Unit
    better: int
    before: float | None
    after: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation of all runs.

    Attributes:
        data: its source.
        samples: images evaluated by run; None where it was not.
        rows: its figures.
        same_float: whether all runs report the same figures of the float model.
    """

    data: str
    samples: tuple[int | None, ...]
    rows: tuple[FigureRow, ...]
    same_float: bool


def comparison_page(reports: Mapping[str, ModelReport]) -> str:
    """Return a self-contained HTML page with runs side by side.

    Args:
        reports: by the name of the run; the others are compared with the first.
    """
    content = [(name, report, report.to_dict()) for name, report in reports.items()]
    runs = [{"name": name, "blocks": data["blocks"]} for name, _, data in content]
    return assemble(
        "compare.html.j2",
        reports=reports,
        data={"runs": runs},
        evaluations=_evaluations(list(reports.values())),
        layers=compare_layers([report.layers for report in reports.values()]),
    )


def _evaluations(reports: Sequence[ModelReport]) -> list[Evaluation]:
    """Evaluations of the same data for the same task, in the order met."""
    keyed = [{(m.data, m.task): m for m in report.metrics} for report in reports]
    keys = dict.fromkeys(key for metrics in keyed for key in metrics)
    return [_evaluation([metrics.get(key) for metrics in keyed]) for key in keys]


def _evaluation(metrics: Sequence[Metric | None]) -> Evaluation:
    rows = [{row.label: row for row in _rows(metric)} for metric in metrics]
    labels = dict.fromkeys(label for by_label in rows for label in by_label)
    floats = [metric.float for metric in metrics if metric and metric.float is not None]
    return Evaluation(
        next(metric.data for metric in metrics if metric),
        tuple(metric.samples if metric else None for metric in metrics),
        tuple(_figure_row([by_label.get(label) for by_label in rows]) for label in labels),
        all(figures == floats[0] for figures in floats),
    )


def _rows(metric: Metric | None) -> list[Row]:
    if metric is None:
        return []
    agreement = Row("same answer as float", "percent", 1, None, metric.agreement)
    space = space_rows(metric.space) if metric.space else []
    rows = [*accuracy_rows(metric), agreement, *space]
    return [row for row in rows if row.after is not None]


def _figure_row(rows: Sequence[Row | None]) -> FigureRow:
    found = [row for row in rows if row]
    before = next((row.before for row in found if row.before is not None), None)
    after = tuple(row.after if row else None for row in rows)
    return FigureRow(found[0].label, found[0].unit, found[0].better, before, after)
