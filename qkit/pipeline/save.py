# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Write the run folder of a calibrated model."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from qkit.artifact.folder import write_run
from qkit.artifact.tensors import to_tensors
from qkit.errors import ArtifactError
from qkit.pipeline.student import Student
from qkit.recipe import Recipe

PACKAGES = ("qkit-clip", "torch", "open_clip_torch", "torchvision", "numpy", "safetensors")


def save_run(
    path: Path,
    student: Student,
    recipe: Recipe,
    report: Mapping[str, Any],
    data: Mapping[str, Any],
    *,
    overwrite: bool,
) -> None:
    """Write a run folder.

    Raises:
        ArtifactError: see ``artifact.folder.write_run``; or the model's architecture is unknown.
    """
    if "model_cfg" not in student.clip.config:
        message = (
            f"a bare {student.clip.spec} module names no architecture to load it by. "
            "Calibrate qkit.load_model('NAME:TAG') instead."
        )
        raise ArtifactError(message)
    manifest = {
        "model": {"spec": student.clip.spec, "config": student.clip.config},
        "recipe": recipe.to_dict(),
        "seed": recipe.seed,
        "data": data,
        "versions": versions(),
    }
    tensors = to_tensors(student.model, student.layers)
    write_run(path, tensors, manifest, report, overwrite=overwrite)


def versions() -> dict[str, str]:
    """Of Python and the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
