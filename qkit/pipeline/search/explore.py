# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Try every choice of bits on a model, and find out what each unit loses and costs."""

from __future__ import annotations

import warnings
from typing import NamedTuple

from qkit.allocation.solve import Cost
from qkit.calibration.memory import Memory
from qkit.errors import QkitWarning
from qkit.pipeline.inputs import CalibrationData
from qkit.pipeline.search.asked import Asked
from qkit.pipeline.search.costs import computed_costs, size_cost
from qkit.pipeline.search.found import Found
from qkit.pipeline.search.kept import keep_trial, recall_trial
from qkit.pipeline.search.meter import Meter
from qkit.pipeline.search.trial import Trial, try_bits
from qkit.pipeline.search.units import Unit, list_units
from qkit.pipeline.steps import Steps
from qkit.pipeline.student import Student
from qkit.progress import Progress
from qkit.recipe import Recipe

BATCH = 16


class Ground(NamedTuple):
    """What choices are tried on: who measures, who is given bits, and costs without a trial."""

    meter: Meter
    units: tuple[Unit, ...]
    costs: dict[str, Cost]


def check_steps(recipe: Recipe, asked: Asked) -> None:
    """Refuse, before any work, a recipe that cannot be run at a choice.

    Raises:
        QkitError: see ``Steps.of``.
    """
    for bits in asked.choices:
        Steps.of(asked.at(recipe, bits))


def open_ground(student: Student, data: CalibrationData, asked: Asked, what: str) -> Ground:
    """Encode the pairs in float and list who is given bits.

    Args:
        student: has its points.
        data: pairs.
        asked: the search.
        what: names what is searched in errors.

    Raises:
        SearchError: there is nothing to give out, or a budget is too small.
        DataError: fewer than two pairs.
    """
    units = list_units(student)
    costs = computed_costs(units, asked.choices, student, asked.times)
    asked.check(what, units, costs)
    pairs = list(data.batches(student.clip, BATCH, limit=asked.samples))
    return Ground(Meter(student, pairs), units, costs)


def explore(
    ground: Ground,
    recipe: Recipe,
    data: CalibrationData,
    asked: Asked,
    progress: Progress,
    memory: Memory,
) -> Found:
    """Calibrate at every choice, and measure each unit alone.

    What ``memory`` has of earlier trials is not done again.
    """
    trials = _try_all(ground.meter, recipe, data, asked, progress, memory)
    costs = {**ground.costs, "size": size_cost(ground.units, [one.stored for one in trials])}
    return Found(ground.meter, ground.units, trials, costs, asked.budgets)


def _try_all(
    meter: Meter,
    recipe: Recipe,
    data: CalibrationData,
    asked: Asked,
    progress: Progress,
    memory: Memory,
) -> list[Trial]:
    """Every choice; what qkit warns of is the same for each, so only the first may speak."""
    found: list[Trial] = []
    for bits in asked.choices:
        plan = asked.at(recipe, bits)
        trial = recall_trial(memory, bits, plan, meter.student)
        if trial is None:
            with warnings.catch_warnings():
                if found:
                    warnings.simplefilter("ignore", QkitWarning)
                trial = try_bits(bits, plan, meter, data, progress)
            keep_trial(memory, trial, meter.student)
        found.append(trial)
    return found
