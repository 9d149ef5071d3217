# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""How far image-text probabilities are from the float model's with some points quantized."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qkit.calibration.bench import Rig, Stream, follows
from qkit.calibration.observe import Batch, set_mode
from qkit.calibration.running import switched
from qkit.clip.model import logit_scale
from qkit.clip.stages import list_stages
from qkit.errors import DataError
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.search.units import Unit
from qkit.pipeline.student import Student
from qkit.progress import Advance
from qkit.report.space import Embeddings, divergence
from qkit.spec import TOWERS


class Meter:
    """Compares parts of a quantized model with the float model, one tower at a time.

    A unit inside a transformer block starts from the float stream that arrives at its half of the
    block, so that nothing before it runs again; where a tower's blocks do not simply follow each
    other, all of the tower runs.
    """

    def __init__(self, student: Student, batches: Sequence[Batch]) -> None:
        """Encode the samples in float.

        Args:
            student: swapped; its points may be replaced between two measurements.
            batches: images and texts, kept as pixels and token numbers.

        Raises:
            DataError: fewer than two images, or texts, are left to tell apart.
        """
        self.student = student
        self.scale = logit_scale(student.model)
        set_mode(student.model, Mode.OFF)
        self.rigs = [_rig(student, tower, batches) for tower in TOWERS]
        self.float = Embeddings(*(_joined(_encode(rig)) for rig in self.rigs))
        if min(map(len, self.float)) < 2:
            message = "probabilities need two images and two texts. Use more --samples or --data."
            raise DataError(message)

    def whole(self) -> float:
        """The loss with every point quantized, in nats."""
        set_mode(self.student.model, Mode.QUANTIZE)
        return self._loss(Embeddings(*(_joined(_encode(rig)) for rig in self.rigs)))

    def alone(self, units: Sequence[Unit], step: Advance) -> list[float]:
        """The loss with one unit quantized at a time, in nats, in the order of ``units``."""
        set_mode(self.student.model, Mode.OFF)
        found: dict[str, float] = {}
        for rig in self.rigs:
            field = "images" if rig.tower == "image" else "texts"
            for unit, features in _sweep(rig, [u for u in units if u.tower == rig.tower]):
                found[unit.name] = self._loss(self.float._replace(**{field: _joined(features)}))
                step(1, kl=found[unit.name])
        return [found[unit.name] for unit in units]

    def _loss(self, after: Embeddings) -> float:
        """Mean of KL(float || quantized) over images, of texts, and over texts, of images."""
        before, changed = (
            self.scale * space.images.double() @ space.texts.double().T
            for space in (self.float, after)
        )
        return (divergence(before, changed) + divergence(before.T, changed.T)) / 2


def _rig(student: Student, tower: str, batches: Sequence[Batch]) -> Rig:
    model: Any = student.model
    encode = model.encode_image if tower == "image" else model.encode_text
    found = [batch.images if tower == "image" else batch.texts for batch in batches]
    samples = [sample for sample in found if sample is not None]
    stages = list_stages(student.blocks, student.layers, halves=True)
    own = tuple(stage for stage in stages if stage.tower == tower)
    if own and samples and not follows(own, samples[0][:1], encode):
        own = ()
    inside = {layer.name for stage in own for layer in stage.layers}
    outside = tuple(
        layer for layer in student.layers if layer.tower == tower and layer.name not in inside
    )
    return Rig(tower, own, outside, samples, encode, {}, model.modules)


def _sweep(rig: Rig, units: Sequence[Unit]) -> Iterator[tuple[Unit, Stream]]:
    """Every unit of a tower with the features that it alone, quantized, leads to."""
    stage_of = {layer.name: stage.name for stage in rig.stages for layer in stage.layers}
    place = {unit.name: stage_of.get(unit.layers[0].name) for unit in units}
    for unit in units:
        if place[unit.name] is None:
            with switched(unit.points, True):
                features = _encode(rig)
            yield unit, features
    if not rig.stages:
        return
    stream = rig.enter(quantized=False)
    for i, stage in enumerate(rig.stages):
        for unit in units:
            if place[unit.name] == stage.name:
                with switched(unit.points, True):
                    features = _finish(rig, i, stream)
                yield unit, features
        stream = rig.run([stage], stream, quantized=False)


def _encode(rig: Rig) -> Stream:
    with torch.no_grad():
        return [rig.encode(batch) for batch in rig.samples]


def _finish(rig: Rig, first: int, stream: Stream) -> Stream:
    """Features of the stream that arrives at stage ``first``, points as they are switched."""
    rest = rig.stages[first:]
    with torch.no_grad():
        ends = [
            reduce(lambda y, stage, n=n: rig.step(stage, n, y), rest, x)  # type: ignore[misc]
            for n, x in enumerate(stream)
        ]
    return rig.leave(ends)


def _joined(features: Stream) -> Tensor:
    """Normalised features ``(N, dim)``; nothing of no batch."""
    parts = [F.normalize(x.float(), dim=-1).cpu() for x in features]
    return torch.cat(parts) if parts else torch.empty(0, 0)
