# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Weights learned block by block, then, if asked for, all of a tower together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from calibrators.reconstruction.halfway import Halfway
from calibrators.reconstruction.objectives import BlockError, TowerError
from calibrators.reconstruction.passage import float_passage
from calibrators.reconstruction.training import Training
from calibrators.reconstruction.views import crops, views
from qkit.calibration.bench import Bench, Rig
from qkit.calibration.importance import measure_importance
from qkit.calibration.learn import frozen
from qkit.calibration.memory import Memory, as_tensors, from_tensors
from qkit.calibration.running import switched
from qkit.calibration.weights import open_weights, put
from qkit.graph.layers import Layer
from qkit.progress import Advance
from qkit.spec import PointId, RoundedWeight


@dataclass(frozen=True)
class Blocks:
    """Weights, scales and biases learned block by block from the float model.

    Every block is given what the quantized blocks before it leave and learns what the float one
    makes (BRECQ, arXiv 2102.05426). All weights of a tower may then learn its embedding, or do so
    at once: that takes thousands of samples, hundreds are learned by heart.

    Attributes:
        samples: images, and texts, that are learned from.
        batch: of these at a step.
        iterations: steps for each block.
        tower: steps for each tower as a whole; 0 for none.
        rate: step size (Adam) of weights, in levels, in blocks.
        fine: step size of biases, and of the logarithms of scales, in blocks.
        tower_rate: as ``rate``, in towers.
        tower_fine: as ``fine``, in towers.
        dropped: share of values of inputs that stay unrounded at random (QDrop), in blocks.
        distance: what 1 - cosine of an embedding counts beside the divergence.
        streams: what the error of the streams behind the blocks counts beside both.
        crops: how many random crops of each image are learned from beside it; towers see new ones
            every time.
        half: whether the products of a step are made in bfloat16 where the device has it. That is
            faster, but at 8 bits its own rounding is what would be learned.
        seed: of the batches' order, and of the crops.
    """

    samples: int = 512
    batch: int = 16
    iterations: int = 192
    tower: int = 0
    rate: float = 1e-2
    fine: float = 3e-3
    tower_rate: float = 1e-3
    tower_fine: float = 1e-3
    dropped: float = 0.0
    distance: float = 10.0
    streams: float = 30.0
    crops: int = 1
    half: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        counts = {"samples": 1, "batch": 1, "iterations": 0, "tower": 0, "crops": 0}
        for name, least in {**counts, "distance": 0, "streams": 0}.items():
            if getattr(self, name) < least:
                message = f"{name} = {getattr(self, name)} is not possible. Use {least} or more."
                raise ValueError(message)
        for name in ("rate", "fine", "tower_rate", "tower_fine"):
            if not getattr(self, name) > 0:
                message = f"{name} = {getattr(self, name)} is not possible. Use a positive number."
                raise ValueError(message)
        if not 0 <= self.dropped < 1:
            message = f"dropped = {self.dropped} is not possible. Use 0, or more and less than 1."
            raise ValueError(message)

    def work(self, bench: Bench) -> int:
        """Steps that ``reconstruct`` will advance by, at most."""
        stages = bench.stages["block"]
        return len(stages) * self.iterations + len({s.tower for s in stages}) * self.tower

    def reconstruct(
        self, bench: Bench, memory: Memory, advance: Advance
    ) -> Mapping[PointId, RoundedWeight]:
        """Learned weights of all layers but token tables, by the weight's point."""
        rigs = bench.rigs("block", self.samples, batch=self.batch, keep=True)
        others = [self._embeddings(rig) for rig in reversed(rigs)]  # there are two
        found: dict[PointId, RoundedWeight] = {}
        for rig, other in zip(rigs, others, strict=True):
            if not rig.samples:
                continue
            with frozen([rig]):
                found |= _Tower(self, self._with_crops(rig), memory, advance).blocks()
                if self.tower:
                    learning = _Tower(self, rig, memory, advance)
                    found |= learning.whole(other, bench.logit_scale)
        return found

    def _embeddings(self, rig: Rig) -> Tensor:
        """Float embeddings ``(n, dim)`` of all samples, for the other tower to be compared with."""
        seen = rig.samples if self.tower else []
        found = [float_passage(rig, batch).embedding for batch in seen]
        return torch.cat(found) if found else torch.empty(0)

    def _with_crops(self, rig: Rig) -> Rig:
        if rig.tower != "image" or not self.iterations:
            return rig
        generator = torch.Generator().manual_seed(self.seed)
        more = [crops(batch, generator) for _ in range(self.crops) for batch in rig.samples]
        return replace(rig, samples=[*rig.samples, *more])


@dataclass(frozen=True, slots=True)
class _Tower:
    """One tower that is being learned."""

    options: Blocks
    rig: Rig
    memory: Memory
    advance: Advance

    def blocks(self) -> dict[PointId, RoundedWeight]:
        """Learn block after block and leave each as it was learned."""
        rig, options = self.rig, self.options
        found: dict[PointId, RoundedWeight] = {}
        if not options.iterations or not rig.stages:
            return {}
        importances = measure_importance(rig, 1, options.seed)
        stream, target = rig.enter(quantized=True), rig.enter(quantized=False)
        for stage, importance in zip(rig.stages, importances, strict=True):
            target = rig.run([stage], target, quantized=False)
            error = BlockError(rig, stage, stream, target, importance)
            steps = (options.iterations, options.rate, options.fine)
            training = Training(*steps, options.dropped, options.half, options.seed)
            found |= self._learned(stage.name, stage.layers, training, error)
            stream = rig.run([stage], stream, quantized=True)
        return found

    def whole(self, others: Tensor, scale: float) -> dict[PointId, RoundedWeight]:
        """Learn all weights of the tower together."""
        layers = [*self.rig.outside, *(la for stage in self.rig.stages for la in stage.layers)]
        options = self.options
        seen = views(self.rig, options.crops)
        error = TowerError(self.rig, seen, others, scale, options.distance, options.streams)
        steps = (options.tower, options.tower_rate, options.tower_fine)
        training = Training(*steps, 0.0, options.half, options.seed)
        return self._learned(self.rig.tower, layers, training, error)

    def _learned(
        self,
        name: str,
        layers: Sequence[Layer],
        training: Training,
        error: Callable[[int], Tensor],
    ) -> dict[PointId, RoundedWeight]:
        """Learn the weights of ``layers``, or recall them, and leave them so."""
        known = self.memory.recall(name)
        if known is None:
            weights = open_weights(layers)
            points = dict.fromkeys(point for layer in layers for point in layer.points)
            with switched(points, True):
                halfway = Halfway(self.memory, f"{name}.halfway")
                training.run(weights, len(self.rig.samples), error, self.advance, halfway)
            found = {weight.point.point: weight.rounded() for weight in weights}
            self.memory.keep(name, as_tensors(found))
        else:
            found = from_tensors(known)
            self.advance(training.iterations)
        put(layers, found)
        return found
