# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Trials of a search that is interrupted, for the same search to go on after them."""

from __future__ import annotations

from pathlib import Path

import torch

from qkit.allocation.choices import Bits
from qkit.artifact.checkpoints import digest, open_checkpoints
from qkit.calibration.memory import Forgetful, Memory
from qkit.pipeline.inputs import CalibrationData
from qkit.pipeline.search.trial import Trial
from qkit.pipeline.student import Student
from qkit.recipe import Recipe

FOLDER, SIZE = "search", "stored."


def open_trials(
    checkpoints: Path | None, student: Student, recipe: Recipe, data: CalibrationData
) -> Memory:
    """Where trials are kept, below ``checkpoints``; nowhere without.

    Raises:
        ArtifactError: trials of another search lie there, or the folder cannot be written.
    """
    if checkpoints is None:
        return Forgetful()
    float_model = digest(student.model.state_dict())
    key = {"recipe": recipe.to_dict(), "data": data.describe(), "model": float_model}
    return open_checkpoints(checkpoints / FOLDER, key)


def keep_trial(memory: Memory, trial: Trial) -> None:
    """Keep what a trial measured, without its points."""
    sizes = {f"{SIZE}{name}": torch.tensor(size) for name, size in trial.stored.items()}
    losses = torch.tensor([*trial.losses, trial.together], dtype=torch.float64)
    memory.keep(_name(trial.bits), {"losses": losses, **sizes})


def recall_trial(memory: Memory, bits: Bits) -> Trial | None:
    """What was measured at a choice of bits, without points; None where nothing was."""
    found = memory.recall(_name(bits))
    if found is None:
        return None
    *losses, together = found["losses"].tolist()
    sizes = {name: size for name, size in found.items() if name.startswith(SIZE)}
    stored = {name.removeprefix(SIZE): int(size.item()) for name, size in sizes.items()}
    return Trial(bits, losses, together, stored, points={})


def _name(bits: Bits) -> str:
    return f"{bits.weight}-{bits.input}"
