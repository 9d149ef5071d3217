# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""How each tower was cut into groups of stages: a strip of brackets under bars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from qkit.calibration.protocol import StageNote
from qkit.report.layer import LayerReport
from qkit.report.model import ModelReport
from qkit.report.partition import groups_of
from qkit.report.select import select_stages
from qkit.report.terminal.cells import HEIGHTS
from qkit.report.terminal.groups import GROUP_LEGEND, group_table, stage_labels

INDENT = "  "
GROUP_STYLES = ("cyan", "magenta")  # neighbouring groups differ
ABOVE, BELOW = "yellow", "blue"  # dependencies on either side of the threshold
LEGEND = "[ ]: searched together; bar: dependency of the next stage; a, m: attention, MLP"


def print_partition(report: ModelReport, console: Console, layers: Sequence[LayerReport]) -> None:
    """Print the strips of the towers that ``layers`` lie in, then a table of these layers.

    Raises:
        DataError: no groups of layers were searched there.
    """
    found = select_stages(report, layers)
    towers = {s.tower: [o for o in found if o.tower == s.tower] for s in found}
    shown = {layer.name for layer in layers}
    inside = [x for x in report.layers if x.name in shown and x.search_group is not None]
    for tower, stages in towers.items():
        console.print(PartitionStrip(stages, report.partition.threshold.get(tower)))
    console.print(Text(LEGEND, style="dim"))
    for tower, stages in towers.items():
        mine = [layer for layer in inside if layer.tower == tower]
        if mine:
            console.print()
            console.print(group_table(stages, mine))
    if inside:
        console.print(Text(GROUP_LEGEND, style="dim"))


class PartitionStrip:
    """The stages of one tower in brackets by group, and at each joint a bar of its dependency.

    Attributes:
        stages: in running order.
        threshold: average dependency that a group had to exceed, nats, if there was one.
    """

    def __init__(self, stages: Sequence[StageNote], threshold: float | None) -> None:
        self.stages = stages
        self.threshold = threshold

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw as many stages in a line as fit; a group is cut only if it is longer than that."""
        labels = stage_labels(self.stages)
        width = max(map(len, labels.values()))
        most = max(1, (options.max_width - len(INDENT) - 1) // (width + 2))
        groups = groups_of(self.stages)
        yield Text(self._title(len(groups)), style="italic")
        for line in _lines(groups, most):
            bars, brackets = Text(INDENT + " " * (width + 1)), Text(INDENT)
            for stage, opening, closing in line:
                bars.append_text(self._bar(stage)).append(" " * width)
                style = GROUP_STYLES[stage.group % len(GROUP_STYLES)]
                brackets.append(f"{opening}{labels[stage.name]:{width}}{closing}", style=style)
            bars.rstrip()
            yield bars
            yield brackets

    def _title(self, groups: int) -> str:
        size = f"{self.stages[0].tower}: {len(self.stages)} stages in {groups} groups"
        low, high = self._ends()
        if high == 0:
            return size
        bound = "" if self.threshold is None else f", threshold {self.threshold:.2f}"
        if self.threshold is not None and low <= self.threshold <= high:
            bound += f" {self._glyph(self.threshold)}"
        return f"{size}, ▁ {low:.2f} to █ {high:.2f} nats{bound}"

    def _bar(self, stage: StageNote) -> Text:
        """Two characters, above the end of ``stage`` and the start of the next."""
        if stage.dependency is None:
            return Text()
        above = self.threshold is not None and stage.dependency > self.threshold
        return Text(2 * self._glyph(stage.dependency), style=ABOVE if above else BELOW)

    def _glyph(self, value: float) -> str:
        low, high = self._ends()
        share = (value - low) / (high - low) if high > low else 1.0
        return HEIGHTS[1 + round(share * 7)]

    def _ends(self) -> tuple[float, float]:
        """The least and the greatest dependency of the tower; 0 where it has but one stage."""
        values = [stage.dependency for stage in self.stages if stage.dependency is not None]
        return min(values, default=0.0), max(values, default=0.0)


Cell = tuple[StageNote, str, str]
"""A stage with what stands before and behind it: a bracket at the ends of its group."""


def _lines(groups: Sequence[Sequence[StageNote]], most: int) -> Iterator[list[Cell]]:
    """Groups line by line, ``most`` stages in each."""
    line: list[Cell] = []
    for group in groups:
        if line and len(line) + len(group) > most:
            yield line
            line = []
        for stage in group:
            if len(line) == most:
                yield line
                line = []
            line.append(
                (stage, "[" if stage is group[0] else " ", "]" if stage is group[-1] else " ")
            )
    yield line
