# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Search who gets how many bits within a budget, for both towers at once and without labels."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qkit.allocation.budget import Budget, parse_budgets, show_amount
from qkit.allocation.choices import Bits, parse_choices
from qkit.allocation.front import Best, find_front
from qkit.allocation.solve import Cost, Table, total
from qkit.allocation.times import NEEDED, Times, read_times
from qkit.artifact.folder import read_run
from qkit.errors import QkitWarning, SearchError
from qkit.pipeline.inputs import CalibrationData, open_calibration
from qkit.pipeline.search.costs import list_costs, model_costs
from qkit.pipeline.search.describe import describe_units
from qkit.pipeline.search.meter import Meter
from qkit.pipeline.search.rules import mixed_recipe
from qkit.pipeline.search.trial import Trial, assemble, recipe_at, try_bits
from qkit.pipeline.search.units import Unit, list_units
from qkit.pipeline.steps import Steps
from qkit.pipeline.teacher import load_teacher, stored_recipe
from qkit.progress import Progress, Silent
from qkit.recipe import Recipe
from qkit.recipe.writing import write_recipe
from qkit.report.model import ModelReport
from qkit.report.search import Row, SearchReport

BATCH = 16
FRONT = 9  # budgets from the least to the most, beside the one asked for
STORED_CHOICES = "3/8,4/8,5/8,6/8,8/8"  # bits of inputs cost nothing in a file
COMPUTED_CHOICES = "4/4,4/8,6/6,8/8"


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The best recipe within the budget, and everything that was compared with it.

    Attributes:
        recipe: ready for ``qkit.calibrate``.
        report: losses, costs and who got what.
    """

    recipe: Recipe
    report: SearchReport

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the recipe as a TOML file.

        Raises:
            RecipeError: the file exists or cannot be written.
        """
        write_recipe(Path(path), self.recipe, overwrite=overwrite)


def search(
    run: str | Path,
    budget: str | Sequence[str],
    *,
    choices: str | None = None,
    data: str | None = None,
    samples: int = 128,
    model: str | None = None,
    times: str | Path | None = None,
    progress: Progress | None = None,
) -> SearchResult:
    """Find the bits of every layer that keep image-text probabilities nearest to the float model's.

    The run's own recipe (transform, calibrator, rounding) calibrates the model once at every
    choice of bits. Layer by layer (layers that read one input together), the divergence that each
    choice causes alone is measured; their sum is what the search makes least.

    Args:
        run: folder of a calibrated model.
        budget: "bits=5" (mean of the weights quantized), "size=30MB" (of the stored tensors),
            "bitops=200G" or "latency=5ms" (one image and one text), or several that all hold.
        choices: pairs of weight/input bits, "4/4,4/8,8/8"; by default weights of 3 to 8 bits, and
            where inputs cost too, four pairs from 4/4 to 8/8.
        data: pairs to calibrate and measure on; by default those of the run.
        samples: how many pairs to measure on.
        model: where the float model lies now; by default where it lay.
        times: TOML file of measured nanoseconds per million multiply-accumulates by bits; a
            budget of latency needs it.
        progress: who shows how far it is.

    Raises:
        QkitError: anything the caller can mend, in one line.
    """
    budgets = parse_budgets([budget] if isinstance(budget, str) else budget)
    picked = parse_choices(choices or _default_choices(budgets))
    clock = _times(budgets, times)
    folder, watch = read_run(Path(run)), progress or Silent()
    recipe = stored_recipe(folder)
    known = ModelReport.from_dict(folder.report)
    source = data or str(known.calibration["source"])
    calib = open_calibration(source, recipe.samples, recipe.seed, skip_bad=data is None)
    for bits in picked:
        Steps.of(recipe_at(recipe, bits))  # refuses what it must before any work
    with watch.phase("load float model", None):
        student = load_teacher(folder, model)
    ran = model_costs(student) | {"size": float(known.size["quantized_bytes"])}
    units = list_units(student)
    if not units:
        message = f"{run} leaves every layer in float: there are no bits to give out. Use another."
        raise SearchError(message)
    with watch.phase("encode pairs", None):
        meter = Meter(student, list(calib.batches(student.clip, BATCH, limit=samples)))
        start = Row("the run", ran, None, meter.whole())
    trials = _try_all(picked, recipe, meter, calib, watch)
    costs = list_costs(units, trials, student, clock)
    _check_known(budgets, costs)
    found = _Found(meter, units, trials, costs, budgets)
    front, rows = found.front(), list[Row]()
    with watch.phase("measure assignments", len(front)) as step:
        for best in front:
            rows.append(found.row(best))
            step(1, kl=rows[-1].measured)
    chosen = next(best.chosen for best in front if best.asked)
    report = SearchReport(
        budgets=tuple(map(str, budgets)),
        choices=tuple(map(str, picked)),
        model=student.clip.spec,
        data=source,
        pairs=len(meter.float.images),
        front=tuple(rows),
        uniform=tuple(found.uniform(number) for number in range(len(trials))),
        run=start,
        units=describe_units(units, student.blocks, trials, chosen),
    )
    return SearchResult(found.recipe(recipe, chosen), report)


@dataclass(frozen=True, slots=True)
class _Found:
    """What is known after all choices were tried."""

    meter: Meter
    units: Sequence[Unit]
    trials: Sequence[Trial]
    costs: Mapping[str, Cost]
    budgets: Sequence[Budget]

    @property
    def losses(self) -> Table:
        return np.array([trial.losses for trial in self.trials]).T

    def front(self) -> list[Best]:
        return find_front(self.losses, self.budgets, self._asked_costs(), FRONT)

    def row(self, best: Best) -> Row:
        """An assignment with the points of all units switched on together."""
        assemble(self.meter.student, self.units, self.trials, best.chosen)
        kind, digits = self.budgets[0].kind, 6 if best.asked else 4
        name = f"{kind}={show_amount(kind, best.most, digits)}"
        predicted = total(self.losses, best.chosen)
        return Row(name, self._spent(best.chosen), predicted, self.meter.whole(), best.asked)

    def uniform(self, number: int) -> Row:
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

    def _asked_costs(self) -> list[Cost]:
        return [self.costs[budget.kind] for budget in self.budgets]

    def _spent(self, chosen: Sequence[int]) -> dict[str, float]:
        return {kind: cost.of(chosen) for kind, cost in self.costs.items()}


def _try_all(
    choices: Sequence[Bits], recipe: Recipe, meter: Meter, data: CalibrationData, watch: Progress
) -> list[Trial]:
    """Every choice; what qkit warns of is the same for each, so only the first may speak."""
    found: list[Trial] = []
    for bits in choices:
        with warnings.catch_warnings():
            if found:
                warnings.simplefilter("ignore", QkitWarning)
            found.append(try_bits(bits, recipe, meter, data, watch))
    return found


def _default_choices(budgets: Sequence[Budget]) -> str:
    stored = all(budget.kind in ("bits", "size") for budget in budgets)
    return STORED_CHOICES if stored else COMPUTED_CHOICES


def _times(budgets: Sequence[Budget], path: str | Path | None) -> Times | None:
    if path is not None:
        return read_times(Path(path))
    for budget in budgets:
        if budget.kind == "latency":
            message = (
                f"budget {budget} needs measured times, since qkit guesses no speed. Name with "
                f"--times {NEEDED}."
            )
            raise SearchError(message)
    return None


def _check_known(budgets: Sequence[Budget], costs: Mapping[str, Cost]) -> None:
    for budget in budgets:
        if budget.kind not in costs:
            message = (
                f"the run quantizes no weight, so budget {budget} has none to give out bits to. "
                "Use budget bitops, or another run."
            )
            raise SearchError(message)
