# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Run stretches of a model again, on a few calibration samples and with scales on trial."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkit.calibration.observe import Batch, set_mode
from qkit.calibration.running import Inputs, recorded, replaced, switched
from qkit.errors import CalibrationError, QkitWarning
from qkit.graph.layers import Layer, list_points
from qkit.graph.stages import Stage
from qkit.nn.tensor_quantizer import Mode, TensorQuantizer
from qkit.spec import TOWERS, PointId, QParams

Stream = list[Tensor]
"""A residual stream, one tensor for each batch of samples."""


class _Reached(Exception):  # no error: it ends a forward that went far enough
    """The forward has reached the first stage."""


@dataclass(slots=True)
class Rig:
    """One tower on the bench, with its samples.

    Attributes:
        tower: "image" or "text".
        stages: its stretches, in running order; empty where they cannot be run one by one.
        outside: its layers before, after and between them.
        samples: pixels or token numbers, one tensor a batch.
        encode: the tower's forward.
        points: its points by their identity.
        modules: all modules of the model.
    """

    tower: str
    stages: tuple[Stage, ...]
    outside: tuple[Layer, ...]
    samples: list[Tensor]
    encode: Callable[[Tensor], Tensor]
    points: Mapping[PointId, TensorQuantizer]
    modules: Callable[[], Iterable[nn.Module]]
    _calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    def put(self, point: PointId, q: QParams) -> None:
        """Give a point a scale on trial."""
        self.points[point].set_qparams(q)

    def enter(self, *, quantized: bool) -> Stream:
        """The stream at the first stage, all before it quantized or in float."""
        stream: Stream = []
        self._calls.clear()

        def caught(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            stream.append(args[0])
            self._calls.append((args[1:], kwargs))
            raise _Reached

        handle = self.stages[0].entry.register_forward_pre_hook(caught, with_kwargs=True)
        points = [point for layer in self.outside for point in layer.points]
        try:
            with switched(points, quantized), torch.no_grad():
                for batch in self.samples:
                    self._encode_until_reached(batch)
        finally:
            handle.remove()
        return stream

    def _encode_until_reached(self, batch: Tensor) -> None:
        try:
            self.encode(batch)
        except _Reached:
            return

    def step(self, stage: Stage, number: int, x: Tensor) -> Tensor:
        """Run one batch of samples through one stage, points as they are switched."""
        args, kwargs = self._calls[number]
        return stage.function(x, *args, **kwargs)

    def run(self, stages: Sequence[Stage], stream: Stream, *, quantized: bool) -> Stream:
        """The stream after ``stages``, all of them quantized or in float."""
        points = [point for stage in stages for point in stage.points]
        with switched(points, quantized), torch.no_grad():
            for stage in stages:
                stream = [self.step(stage, i, x) for i, x in enumerate(stream)]
        return stream

    def leave(self, stream: Stream) -> Stream:
        """What the tower makes of the stream after its last stage, points as they are switched."""
        *others, last = dict.fromkeys(stage.module for stage in self.stages)
        found: Stream = []
        for batch, x in zip(self.samples, stream, strict=True):
            with (
                replaced(others, lambda y, *_, **__: y),
                replaced([last], lambda *_, x=x, **__: x),
                torch.no_grad(),
            ):
                found.append(self.encode(batch))
        return found

    def layer_inputs(self, stage: Stage, stream: Stream) -> tuple[Stream, Inputs]:
        """The float stream after ``stage``, and what arrives at its layers on the way."""
        with recorded(stage.layers) as found:
            return self.run([stage], stream, quantized=False), found

    def outside_inputs(self) -> Inputs:
        """What arrives at the layers outside the stages, all in float."""
        points = [point for layer in self.outside for point in layer.points]
        with recorded(self.outside) as found, switched(points, False), torch.no_grad():
            for batch in self.samples:
                self.encode(batch)
        return found


@dataclass(frozen=True, slots=True)
class Bench:
    """A model whose parts can be run again.

    Attributes:
        model: swapped, its points attached; all of them are off between two calls.
        layers: its layers.
        stages: its stages by span, "half" or "block".
        batches: reads the first so many samples anew, a few at a time.
        logit_scale: factor from the cosine of image and text to their logit.
    """

    model: nn.Module
    layers: tuple[Layer, ...]
    stages: Mapping[str, tuple[Stage, ...]]
    batches: Callable[[int], Iterable[Batch]]
    logit_scale: float = 1.0

    def rigs(
        self, span: str, samples: int, *, batch: int | None = None, keep: bool = False
    ) -> list[Rig]:
        """Both towers, cut into stages of ``span``, with the first ``samples`` of each.

        Args:
            span: "half" or "block".
            samples: images, and texts.
            batch: samples that run at once; a trial's few by default.
            keep: what an earlier step learned of LayerNorms and fixed of weights. Otherwise it is
                dropped: trials know none of it.
        """
        set_mode(self.model, Mode.OFF)
        for point in [] if keep else list_points(self.model):
            point.set_affine(None)
            point.set_rounding(None)
        batches = list(self.batches(samples))
        sides = {"image": [b.images for b in batches], "text": [b.texts for b in batches]}
        found = {tower: [x for x in side if x is not None] for tower, side in sides.items()}
        if batch is not None:
            found = {tower: rebatched(side, batch) for tower, side in found.items()}
        return [self._rig(tower, self.stages[span], found[tower]) for tower in TOWERS]

    def _rig(self, tower: str, stages: tuple[Stage, ...], samples: list[Tensor]) -> Rig:
        model: Any = self.model
        encode = model.encode_image if tower == "image" else model.encode_text
        own = tuple(stage for stage in stages if stage.tower == tower)
        if own and not samples:
            message = (
                f"none of the first calibration samples has an input for the {tower} tower. "
                "Draw more with --samples, or replace the unreadable files."
            )
            raise CalibrationError(message)
        if own and not follows(own, samples[0][:1], encode):
            message = (
                f"the blocks of the {tower} tower do not simply follow each other, so they cannot "
                "be searched together; its scales are chosen layer by layer."
            )
            warnings.warn(message, QkitWarning, stacklevel=2)
            own = ()
        inside = {layer.name for stage in own for layer in stage.layers}
        layers = [layer for layer in self.layers if layer.tower == tower]
        points = {p.point: p for layer in layers for p in layer.points}
        outside = tuple(layer for layer in layers if layer.name not in inside)
        return Rig(tower, own, outside, samples, encode, points, model.modules)


def rebatched(batches: Sequence[Tensor], size: int) -> list[Tensor]:
    """The same samples, ``size`` at a time; texts are padded to the longest of all."""
    if not batches:
        return []
    widest = max(x.shape[-1] for x in batches)
    return list(torch.cat([F.pad(x, (0, widest - x.shape[-1])) for x in batches]).split(size))


def follows(stages: Sequence[Stage], sample: Tensor, encode: Callable[[Tensor], Tensor]) -> bool:
    """Whether every stage gets exactly what its predecessor gives, and nothing else that varies."""
    arrived: list[Tensor] = []
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arrived.append(args[0])
        calls.append((args[1:], kwargs))

    handles = [s.entry.register_forward_pre_hook(note, with_kwargs=True) for s in stages]
    try:
        with torch.no_grad():
            encode(sample)
    finally:
        for handle in handles:
            handle.remove()
    if len(arrived) != len(stages):
        return False
    args, kwargs = calls[0]
    with torch.no_grad():
        left = [s.function(x, *args, **kwargs) for s, x in zip(stages, arrived, strict=True)]
    pairs = zip(left[:-1], arrived[1:], strict=True)
    return all(
        isinstance(a, Tensor) and a.shape == b.shape and torch.allclose(a, b, 1e-3, 1e-3)
        for a, b in pairs
    )
