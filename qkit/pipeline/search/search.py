# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Search who gets how many bits within a budget, for both towers at once and without labels."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qkit.allocation.budget import Budget, parse_budgets
from qkit.allocation.choices import Bits, parse_choices
from qkit.allocation.front import check_possible
from qkit.allocation.solve import Cost
from qkit.allocation.times import NEEDED, Times, read_times
from qkit.artifact.folder import read_run
from qkit.errors import QkitWarning, SearchError
from qkit.pipeline.inputs import CalibrationData, open_calibration
from qkit.pipeline.search.costs import computed_costs, model_costs, size_cost
from qkit.pipeline.search.found import Found
from qkit.pipeline.search.meter import Meter
from qkit.pipeline.search.trial import Trial, recipe_at, try_bits
from qkit.pipeline.search.units import Unit, list_units
from qkit.pipeline.steps import Steps
from qkit.pipeline.teacher import load_teacher, stored_recipe
from qkit.progress import Progress, Silent
from qkit.recipe import Recipe
from qkit.recipe.writing import write_recipe
from qkit.report.model import ModelReport
from qkit.report.search import Row, SearchReport

BATCH = 16
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
    choice of bits; reconstruction is left to the recipe that comes out. Layer by layer (layers
    that read one input together), the divergence that each choice causes alone is measured; their
    sum is what the search makes least.

    Args:
        run: folder of a calibrated model.
        budget: "bits=5" (mean of the weights quantized), "size=30MB" (of the stored tensors),
            "bitops=200G" or "latency=5ms" (one image and one text), or several that all hold.
        choices: pairs of weight/input bits, "4/4,4/8,8/8"; by default weights of 3 to 8 bits, and
            where inputs cost too, four pairs from 4/4 to 8/8.
        data: pairs to calibrate and measure on; by default those of the run.
        samples: how many pairs to measure on, at most those that the recipe draws.
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
    recipe, known = stored_recipe(folder), ModelReport.from_dict(folder.report)
    source = data or str(known.calibration["source"])
    calib = open_calibration(source, recipe.samples, recipe.seed, skip_bad=data is None)
    for bits in picked:
        Steps.of(recipe_at(recipe, bits))  # refuses what it must before any work
    with watch.phase("load float model", None):
        student = load_teacher(folder, model)
    units, ran = list_units(student), model_costs(student)
    costs = computed_costs(units, picked, student, clock)
    _check(folder.path, units, budgets, costs)
    with watch.phase("encode pairs", None):
        meter = Meter(student, list(calib.batches(student.clip, BATCH, limit=samples)))
        ran["size"] = float(known.size["quantized_bytes"])
        start = Row("the run", ran, None, meter.whole())
    trials = _try_all(picked, recipe, meter, calib, watch)
    costs["size"] = size_cost(units, [trial.stored for trial in trials])
    found = Found(meter, units, trials, costs, budgets)
    chosen, report = found.compare(start, source, watch)
    return SearchResult(found.recipe(recipe, chosen), report)


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


def _check(
    run: Path, units: Sequence[Unit], budgets: Sequence[Budget], costs: Mapping[str, Cost]
) -> None:
    """Refuse, before minutes of work, what cannot be; the size is known only after them."""
    if not units:
        message = f"{run} leaves every layer in float: there are no bits to give out. Use another."
        raise SearchError(message)
    for budget in budgets:
        if budget.kind in costs:
            check_possible(budget, costs[budget.kind])
        elif budget.kind == "bits":
            message = (
                f"{run} quantizes no weight, so budget {budget} has none to give out bits to. "
                "Use budget bitops, or another run."
            )
            raise SearchError(message)
