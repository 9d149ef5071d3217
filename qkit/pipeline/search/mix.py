# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The ``[search]`` of a recipe: bits of its own for each layer, before anything is calibrated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from qkit.pipeline.inputs import CalibrationData
from qkit.pipeline.search.asked import read_asked
from qkit.pipeline.search.explore import check_steps, explore, open_ground
from qkit.pipeline.search.kept import open_trials
from qkit.pipeline.student import Student
from qkit.progress import Progress
from qkit.recipe import Recipe


def check_mix(recipe: Recipe) -> None:
    """Refuse a ``[search]`` that cannot be done, before any work; nothing where there is none.

    Raises:
        QkitError: see ``read_asked`` and ``Steps.of``.
    """
    if recipe.search is not None:
        check_steps(replace(recipe, search=None), read_asked(recipe))


def mixed(
    student: Student,
    recipe: Recipe,
    data: CalibrationData,
    progress: Progress,
    checkpoints: Path | None = None,
) -> Recipe:
    """The recipe with the bits that its ``[search]`` finds, which is done then.

    Args:
        student: has the recipe's points; has those of a trial afterwards.
        recipe: has a ``[search]``.
        data: what is calibrated on.
        progress: who shows how far it is.
        checkpoints: folder where trials are kept, so that the same call goes on after them.

    Raises:
        SearchError: a budget cannot be met.
        DataError: fewer than two pairs.
        ArtifactError: the folder holds trials of another search, or cannot be written.
    """
    asked, plain = read_asked(recipe), replace(recipe, search=None)
    with progress.phase("encode pairs", None):
        ground = open_ground(student, data, asked, "the recipe")
        memory = open_trials(checkpoints, student, recipe, data, asked)
    found = explore(ground, plain, data, asked, progress, memory)
    return found.recipe(plain, found.best())
