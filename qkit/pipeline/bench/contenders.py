# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The models that are timed, and what they are given."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qkit.artifact.folder import MODEL, read_run
from qkit.clip.model import ClipModel
from qkit.clip.rebuild import rebuild
from qkit.clip.text import cut_padding
from qkit.clip.zero_shot import sample_prompts
from qkit.errors import ModelError, QkitWarning
from qkit.exports.opened import ExportFolder, read_export
from qkit.pipeline.load import load_run
from qkit.pipeline.run import Run

FP32, BF16, INT8, INT4 = "fp32", "bf16", "int8", "int4"
FLOATS = (FP32, BF16)
MODELS = (*FLOATS, INT8)
WHAT = ("image", "captions", "full texts")


class Batch(NamedTuple):
    """A tower and what it encodes: pixels ``(N, 3, H, W)`` or tokens ``(N, context)``."""

    tower: str
    data: Tensor


def integer_run(path: Path) -> Run:
    """Load a run in integers, or with packed weights where inputs stay in float.

    What falls back is told in the report.

    Raises:
        ArtifactError: it cannot be loaded.
        ModelError: no layer of it has a kernel, so there is no speed to measure.
    """
    reasons: list[str] = []
    for runtime in (INT8, INT4):
        run = load_quietly(path, runtime)
        multiplying = {layer.name for layer in run.layers if layer.kind != "embedding"}
        simulated = {fallback.layer: fallback.reason for fallback in run.execution.fallbacks}
        if not multiplying <= simulated.keys():
            return run
        reasons.append(next(iter(simulated.values())))
    message = (
        f"no layer of {path} multiplies in integers here ({reasons[0]}), and a simulation's speed "
        "says nothing. Use a run with weights and inputs of integers."
    )
    raise ModelError(message)


def load_quietly(path: Path, runtime: str) -> Run:
    """Load a run, without a warning of what falls back."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QkitWarning)
        return load_run(path, runtime=runtime)


def float_model(path: Path, dtype: torch.dtype) -> ClipModel:
    """The architecture of a run as open_clip builds it, with random weights: speed is the same."""
    model = read_run(path).manifest["model"]
    clip = rebuild(model["spec"], model["config"])
    clip.model.to(dtype).requires_grad_(False)
    return clip


def load_all(path: Path) -> tuple[Run, dict[str, nn.Module]]:
    """The run in integers, and all models by name."""
    run = integer_run(path)
    floats = {FP32: torch.float32, BF16: torch.bfloat16}
    models = {name: float_model(path, dtype).model for name, dtype in floats.items()}
    return run, {**models, run.execution.name: run.model}


def open_exports(path: Path, folders: Sequence[Path]) -> dict[str, ExportFolder]:
    """Exports of a run by what they are called: the format, and the folder where that is not clear.

    Raises:
        ArtifactError: a folder is no export, or one of another run.
        ExportError: one failed its proof.
    """
    source = read_run(path).manifest["files"][MODEL]["sha256"]
    found = [read_export(folder, source) for folder in folders]
    formats = Counter(export.form.name for export in found)
    return {
        f"{e.form.name} {e.path.name}" if formats[e.form.name] > 1 else e.form.name: e
        for e in found
    }


def load_export(export: ExportFolder, clip: ClipModel, thread_count: int | None) -> nn.Module:
    """An export, its texts cut after the longest of a batch where it takes short ones."""
    return export.load(thread_count, partial(cut_padding, clip.model))


def make_batch(clip: ClipModel, what: str, count: int) -> Batch:
    """Random pixels, prompts around class names, or texts as long as the context."""
    generator = torch.Generator().manual_seed(0)
    if what == "image":
        size = clip.config["preprocess_cfg"]["size"]
        height, width = (size, size) if isinstance(size, int) else size
        return Batch("image", torch.randn(count, 3, height, width, generator=generator))
    if what == "captions":
        return Batch("text", clip.tokenizer(sample_prompts(count, 0)))
    context = clip.tokenizer([""]).shape[1]
    return Batch("text", clip.tokenizer([context * "dog "] * count))


def encode(model: Any, batch: Batch) -> Tensor:
    """Features of a batch."""
    tower, data = batch
    encoder = getattr(model, f"encode_{tower}")
    if data.is_floating_point():
        data = data.to(next(model.parameters(), data).dtype)  # an export has none
    features: Tensor = encoder(data)
    return features


def models_by_name(models: Mapping[str, nn.Module], batch: Batch) -> dict[str, Any]:
    """For each model, a call that encodes ``batch``."""
    return {name: lambda model=model: encode(model, batch) for name, model in models.items()}
