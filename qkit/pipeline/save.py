# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Run folders of calibrated models: write one, load one back."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qkit.artifact.folder import RunFolder, read_run, write_run
from qkit.artifact.tensors import from_tensors, to_tensors
from qkit.clip.layout import swap_clip
from qkit.clip.model import ClipModel, rebuild
from qkit.errors import ArtifactError, QkitError
from qkit.graph.attach import attach
from qkit.graph.layers import Layer, list_layers
from qkit.graph.match import decide
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.finetune.learned import Learned, stored_learned
from qkit.pipeline.student import Student
from qkit.pipeline.texts import encode_classes
from qkit.progress import ignore
from qkit.recipe import Recipe, parse_recipe
from qkit.report.model import ModelReport

PACKAGES = ("qkit-clip", "torch", "open_clip_torch", "torchvision", "numpy", "safetensors")


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder brought back to life.

    Attributes:
        folder: its manifest and where it lies.
        clip: the quantized model with tokenizer and preprocessing.
        layers: the model's layers.
        recipe: how it was quantized.
        report: what was measured.
        learned: the prompt and the adapter of a fine-tuned run, both in use; None for other runs.
    """

    folder: RunFolder
    clip: ClipModel
    layers: tuple[Layer, ...]
    recipe: Recipe
    report: ModelReport
    learned: Learned | None = None

    @property
    def model(self) -> nn.Module:
        """The quantized model, in eval mode."""
        return self.clip.model

    @torch.no_grad()
    def class_embeddings(self, classnames: Sequence[str], templates: int = 7) -> Tensor:
        """The zero-shot classifier, ``(classes, dim)``, normalised.

        Names stand in the learned prompt where the run has one for them, else in 7 or 80 templates.

        Raises:
            DataError: there are no so many templates, or a name does not fit the prompt.
        """
        return encode_classes(self.clip, classnames, Mode.QUANTIZE, templates, ignore)


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


def load_run(path: str | Path) -> Run:
    """Load a run folder; its model gives bit-identical features.

    Raises:
        ArtifactError: there is no run folder, it is damaged, or a newer qkit wrote it.
    """
    folder = read_run(Path(path))
    try:
        spec, config = folder.manifest["model"]["spec"], folder.manifest["model"]["config"]
        recipe = parse_recipe(folder.manifest["recipe"], f"{path}/manifest.json")
        clip = rebuild(spec, config)
        layers = list_layers(clip.model, swap_clip(clip.model))
        attach(clip.model, layers, recipe.rules, decide(recipe.rules, layers))
    except ArtifactError:
        raise
    except (KeyError, TypeError, QkitError) as error:
        message = f"run folder {path} is damaged: {error}. Calibrate again."
        raise ArtifactError(message) from error
    from_tensors(clip.model, layers, folder.tensors())
    learned = stored_learned(folder)
    served = clip if learned is None else learned.applied_to(clip)
    return Run(folder, served, layers, recipe, ModelReport.from_dict(folder.report), learned)


def versions() -> dict[str, str]:
    """Of Python and the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
