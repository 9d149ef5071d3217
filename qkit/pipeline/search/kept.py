# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Trials of a search that is interrupted, for the same search to go on after them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from qkit.allocation.choices import Bits
from qkit.artifact.checkpoints import digest, open_checkpoints
from qkit.artifact.tensors import install_stored, to_tensors
from qkit.calibration.memory import Forgetful, Memory
from qkit.graph.points import take_points
from qkit.pipeline.inputs import CalibrationData
from qkit.pipeline.search.asked import Asked
from qkit.pipeline.search.trial import Trial
from qkit.pipeline.student import Student, give_points
from qkit.recipe import Recipe

FOLDER, LOSSES, SIZE, POINT = "search", "losses", "stored.", "point."


def open_trials(
    checkpoints: Path | None, student: Student, recipe: Recipe, data: CalibrationData, asked: Asked
) -> Memory:
    """Where trials are kept, below ``checkpoints``; nowhere without.

    Budgets and choices may change from one search to the next: a trial does not know them.

    Raises:
        ArtifactError: trials of another search lie there, or the folder cannot be written.
    """
    if checkpoints is None:
        return Forgetful()
    key = {
        "recipe": replace(recipe, search=None).to_dict(),
        "samples": asked.samples,
        "rounding": asked.rounding,
        "data": data.describe(),
        "model": digest(student.model.state_dict()),
    }
    return open_checkpoints(checkpoints / FOLDER, key)


def keep_trial(memory: Memory, trial: Trial, student: Student) -> None:
    """Keep what a trial measured, and its points, which ``student`` still has."""
    losses = torch.tensor([*trial.losses, trial.together], dtype=torch.float64)
    sizes = {f"{SIZE}{name}": torch.tensor(size) for name, size in trial.stored.items()}
    tensors = to_tensors(student.model, student.layers)
    points = {f"{POINT}{name}": tensor for name, tensor in tensors.items()}
    memory.keep(_name(trial.bits), {LOSSES: losses, **sizes, **points})


def recall_trial(memory: Memory, bits: Bits, recipe: Recipe, student: Student) -> Trial | None:
    """What was measured at a choice of bits; None where nothing was.

    Args:
        memory: as ``open_trials`` made it.
        bits: the choice.
        recipe: has all at ``bits``.
        student: is given the trial's points.

    Raises:
        ArtifactError: what was kept is damaged.
    """
    found = memory.recall(_name(bits))
    if found is None:
        return None
    give_points(student, recipe)
    install_stored(student.model, student.layers, _under(POINT, found))
    *losses, together = found[LOSSES].tolist()
    stored = {name: int(size.item()) for name, size in _under(SIZE, found).items()}
    return Trial(bits, losses, together, stored, take_points(student.layers))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _name(bits: Bits) -> str:
    return f"{bits.weight}-{bits.input}"
