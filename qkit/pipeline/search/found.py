# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""From losses and costs to the best assignments, each measured as a whole, and a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qkit.allocation.budget import Budget, show_amount
from qkit.allocation.front import Best, find_best, find_front
from qkit.allocation.solve import Assignment, Cost, Table, total
from qkit.pipeline.search.describe import describe_units
from qkit.pipeline.search.meter import Meter
from qkit.pipeline.search.rules import mixed_recipe
from qkit.pipeline.search.trial import Trial, assemble
from qkit.pipeline.search.units import Unit
from qkit.progress import Progress
from qkit.recipe import Recipe
from qkit.report.search import Row, SearchReport

FRONT = 9  # budgets from the least to the most, beside the one asked for


@dataclass(frozen=True, slots=True)
class Found:
    """What is known after all choices were tried.

    Attributes:
        meter: measures the model as a whole.
        units: who is given bits.
        trials: the model at each choice.
        costs: of every unit and choice, by kind of budget.
        budgets: what was asked for; the first is varied.
    """

    meter: Meter
    units: Sequence[Unit]
    trials: Sequence[Trial]
    costs: Mapping[str, Cost]
    budgets: Sequence[Budget]

    @property
    def losses(self) -> Table:
        """KL with one unit quantized, ``(units, choices)``, nats."""
        return np.array([trial.losses for trial in self.trials]).T

    def best(self) -> Assignment:
        """The assignment of least loss for the budgets.

        Raises:
            SearchError: a budget cannot be met.
        """
        return find_best(self.losses, self.budgets, self._asked())

    def compare(
        self, start: Row, source: str, progress: Progress
    ) -> tuple[Assignment, SearchReport]:
        """The best assignment for the budgets, and the report that sets others beside it.

        Raises:
            SearchError: a budget cannot be met.
        """
        front, rows = find_front(self.losses, self.budgets, self._asked(), FRONT), list[Row]()
        with progress.phase("measure assignments", len(front)) as step:
            for best in front:
                rows.append(self.row(best))
                step(1, kl=rows[-1].measured)
        chosen = next(best.chosen for best in front if best.asked)
        student = self.meter.student
        report = SearchReport(
            budgets=tuple(map(str, self.budgets)),
            choices=tuple(str(trial.bits) for trial in self.trials),
            model=student.clip.spec,
            data=source,
            pairs=len(self.meter.float.images),
            front=tuple(rows),
            uniform=tuple(self.uniform(number) for number in range(len(self.trials))),
            run=start,
            units=describe_units(self.units, student.blocks, self.trials, chosen),
        )
        return chosen, report

    def row(self, best: Best) -> Row:
        """An assignment with the points of all units switched on together."""
        assemble(self.meter.student, self.units, self.trials, best.chosen)
        kind, digits = self.budgets[0].kind, 6 if best.asked else 4
        name = f"{kind}={show_amount(kind, best.most, digits)}"
        predicted = total(self.losses, best.chosen)
        return Row(name, self._spent(best.chosen), predicted, self.meter.whole(), best.asked)

    def uniform(self, number: int) -> Row:
        """All units at one choice, as its trial measured it."""
        trial, everywhere = self.trials[number], [number] * len(self.units)
        predicted = total(self.losses, everywhere)
        return Row(str(trial.bits), self._spent(everywhere), predicted, trial.together)

    def recipe(self, recipe: Recipe, chosen: Sequence[int]) -> Recipe:
        """The run's recipe with the bits of an assignment."""
        bits = {
            layer.name: self.trials[choice].bits
            for unit, choice in zip(self.units, chosen, strict=True)
            for layer in unit.layers
        }
        pairs = len(self.meter.float.images)
        summary = (
            f"Mixed precision, {' and '.join(map(str, self.budgets))}: qkit search, {pairs} pairs."
        )
        return mixed_recipe(recipe, self.meter.student.layers, bits, summary)

    def _asked(self) -> list[Cost]:
        """Costs that budgets limit."""
        return [self.costs[budget.kind] for budget in self.budgets]

    def _spent(self, chosen: Sequence[int]) -> dict[str, float]:
        return {kind: cost.of(chosen) for kind, cost in self.costs.items()}
