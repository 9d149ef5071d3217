# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What the benchmarks of P4Q run on: models, labelled images, and images encoded once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from beds import BEDS, TESTBED, Bed
from torch import Tensor

from qkit.calibration.memory import Forgetful
from qkit.clip.loading import load_model
from qkit.clip.model import ClipModel
from qkit.data import Dataset, open_dataset, parse_source
from qkit.nn.tensor_quantizer import Mode
from qkit.p4q.config import P4QConfig
from qkit.pipeline.evaluate import EncodedImages, Evaluator
from qkit.pipeline.finetune.draw import draw_training
from qkit.pipeline.finetune.tune import Tuned, tune
from qkit.pipeline.inputs import Skipped, open_calibration
from qkit.pipeline.steps import Steps
from qkit.pipeline.student import give_points, prepare
from qkit.progress import Silent
from qkit.recipe import load_recipe

FLOAT = "float"
KEPT = Path("p4q-features")  # where the benchmark is started; none of it is committed


@dataclass(frozen=True, slots=True)
class Task:
    """Where to learn and where to try it.

    Attributes:
        bed: model and calibration data.
        train: labelled images.
        evaluations: classification sources.
        titles: what a table calls each of them.
        spare: images of each class that 16 shots leave over, for choices.
    """

    bed: Bed
    train: str
    evaluations: tuple[str, ...]
    titles: tuple[str, ...]
    spare: int = 0


TASKS = {
    "demo": Task(
        BEDS["demo"], "demo:tune", ("demo:labelled", "demo:unseen"), ("labelled", "unseen")
    ),
    "testbed": Task(
        BEDS["testbed"],
        f"classes:{TESTBED / 'tiny-imagenet/train'}",
        (f"classes:{TESTBED / 'tiny-imagenet/val'}",),
        ("Tiny-ImageNet",),
        spare=4,
    ),
}


def student(bed: Bed, bits: str, seed: int, kind: str) -> ClipModel:
    """The bed's model, calibrated with one draw; without points in float."""
    found = prepare(load_model(bed.model), copy=False)
    if bits != FLOAT:
        recipe = load_recipe(f"{bits.lower()}-{kind}")
        give_points(found, recipe)
        data = open_calibration(bed.calibration, recipe.samples, seed, skip_bad=False)
        Steps.of(recipe).run(found, data, Silent())
    return found.clip


def drawn(task: Task, shots: int, seed: int) -> Dataset:
    """Shots of each class."""
    return draw_training(open_dataset(parse_source(task.train)), shots, seed)


def encode(clip: ClipModel, bits: str, dataset: Dataset, model: str) -> EncodedImages:
    """Images as the student and the float model see them.

    Args:
        clip: the student.
        bits: "float" where it is the float model itself.
        dataset: the images.
        model: name of the float model.
    """
    off = encoded_once(load_model(model), dataset)
    both = {Mode.OFF: off, Mode.QUANTIZE: off}
    if bits != FLOAT:
        both[Mode.QUANTIZE] = encoded_once(clip, dataset)
    return EncodedImages(dataset, both, dataset.samples, Skipped())


def encode_shots(
    clip: ClipModel, bits: str, task: Task, shots: int, seed: int
) -> tuple[EncodedImages, EncodedImages | None]:
    """The shots, and the images of the same classes that are to spare; None where none are."""
    each = shots + task.spare
    every = encode(clip, bits, drawn(task, each, seed), task.bed.model)
    held = _part(every, each, slice(shots, None)) if task.spare else None
    return _part(every, each, slice(shots)), held


def _part(every: EncodedImages, each: int, some: slice) -> EncodedImages:
    """Some of the images of each class; those of a class follow each other."""
    rows = torch.arange(len(every.kept)).view(-1, each)[:, some].flatten()
    samples = tuple(every.kept[row] for row in rows.tolist())
    features = {mode: found[rows] for mode, found in every.features.items()}
    return EncodedImages(replace(every.dataset, samples=samples), features, samples, every.skipped)


def train_on(clip: ClipModel, config: P4QConfig, train: EncodedImages) -> Tuned:
    """Learn from images that are encoded already."""
    return tune(clip, train.dataset, config, Forgetful(), Silent(), known=train.features)


def encoded_once(clip: ClipModel, dataset: Dataset) -> Tensor:
    """Features ``(N, dim)``; those that an earlier run found with the same tensors are read."""
    path = KEPT / f"{_digest(clip)}.pt"
    known: dict[str, Tensor] = torch.load(path) if path.exists() else {}
    names = [f"{dataset.source} {sample.image}" for sample in dataset.samples]
    missing = [row for row, name in enumerate(names) if name not in known]
    if missing:
        some = replace(dataset, samples=tuple(dataset.samples[row] for row in missing))
        found = Evaluator(clip, (Mode.QUANTIZE,)).encode(some).features[Mode.QUANTIZE]
        known |= {names[row]: feature.clone() for row, feature in zip(missing, found, strict=True)}
        KEPT.mkdir(exist_ok=True)
        torch.save(known, path)
    return torch.stack([known[name] for name in names])


def _digest(clip: ClipModel) -> str:
    """Of a model's tensors, scales and coordinates included."""
    total = hashlib.sha256()
    for name, tensor in sorted(clip.model.state_dict().items()):
        total.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return total.hexdigest()[:16]
