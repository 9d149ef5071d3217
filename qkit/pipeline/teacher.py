# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A run together with the float model that it was made of, in one model with points to switch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from qkit.artifact.folder import RunFolder
from qkit.artifact.tensors import install_stored, to_tensors
from qkit.clip.loading import load_model
from qkit.errors import ModelError
from qkit.pipeline.student import Student, give_points, prepare
from qkit.recipe import parse_recipe


def load_teacher(folder: RunFolder, model: str | None = None) -> Student:
    """Load the float model of a run and give it the run's points, switched on.

    Args:
        folder: the run.
        model: where the float model lies now; by default where it lay.

    Raises:
        ModelError: it cannot be loaded, or is not the model that the run was made of.
        ArtifactError: the run folder is damaged.
    """
    spec = model or folder.manifest["model"]["spec"]
    student = prepare(load_model(spec), copy=False)
    give_points(student, parse_recipe(folder.manifest["recipe"], f"{folder.path}/manifest.json"))
    stored = folder.tensors()
    install_stored(student.model, stored)
    _check_same(spec, folder, to_tensors(student.model, student.layers), stored)
    return student


def _check_same(
    spec: str, folder: RunFolder, found: Mapping[str, Tensor], stored: Mapping[str, Tensor]
) -> None:
    """Quantized once more, the float model must give the run's own tensors, bit for bit."""
    for name, tensor in stored.items():
        if name not in found or not torch.equal(found[name], tensor):
            message = (
                f"{spec} is not the model that {folder.path} was made of: {name} differs. "
                "Name the right one with --model."
            )
            raise ModelError(message)
