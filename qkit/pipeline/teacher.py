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
from qkit.clip.model import ClipModel
from qkit.errors import ArtifactError, CalibrationError, ModelError, RecipeError
from qkit.pipeline.student import Student, give_points, prepare
from qkit.recipe import Recipe, parse_recipe


def load_teacher(folder: RunFolder, model: str | None = None) -> Student:
    """Load the float model of a run and give it the run's points, switched on.

    Args:
        folder: the run.
        model: where the float model lies now; by default where it lay.

    Raises:
        ModelError: it cannot be loaded, or is not the model that the run was made of.
        ArtifactError: the run folder is damaged.
    """
    recipe = stored_recipe(folder)
    try:
        spec = model or str(folder.manifest["model"]["spec"])
    except (KeyError, TypeError) as error:
        raise ArtifactError(_lacks(folder, error)) from error
    student = prepare(_load(spec, named=model is not None), copy=False)
    stored = folder.tensors()
    try:
        give_points(student, recipe)
        install_stored(student.model, student.layers, stored)
        found = to_tensors(student.model, student.layers)
    except (ArtifactError, RecipeError, CalibrationError) as error:
        raise ModelError(_other(spec, folder, "its layers differ")) from error
    _check_same(spec, folder, found, stored)
    return student


def stored_recipe(folder: RunFolder) -> Recipe:
    """The recipe that a run was made by.

    Raises:
        ArtifactError: the run folder is damaged.
    """
    try:
        return parse_recipe(folder.manifest["recipe"], f"{folder.path}/manifest.json")
    except (KeyError, TypeError) as error:
        raise ArtifactError(_lacks(folder, error)) from error


def _lacks(folder: RunFolder, error: Exception) -> str:
    return f"run folder {folder.path} is damaged: {error} is missing. Calibrate again."


def _load(spec: str, *, named: bool) -> ClipModel:
    try:
        return load_model(spec)
    except ModelError as error:
        if named:
            raise
        message = f"{error} If the float model lies elsewhere now, name it with --model."
        raise ModelError(message) from error


def _other(spec: str, folder: RunFolder, fact: str) -> str:
    return (
        f"{spec} is not the model that {folder.path} was made of: {fact}. "
        "Name the right one with --model."
    )


def _check_same(
    spec: str, folder: RunFolder, found: Mapping[str, Tensor], stored: Mapping[str, Tensor]
) -> None:
    """Quantized once more, the float model must give the run's own tensors, bit for bit.

    Offsets follow from a weight that its digest has shown to be the same.
    """
    for name, tensor in stored.items():
        if name.endswith(".offset"):
            continue
        if name not in found or not torch.equal(found[name], tensor):
            raise ModelError(_other(spec, folder, f"{name} differs"))
