# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Let gradients move scales and the affine of LayerNorms while the model runs quantized."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qkit.calibration.bench import Rig
from qkit.calibration.running import switched
from qkit.graph.stages import Stage
from qkit.nn.tensor_quantizer import TensorQuantizer
from qkit.spec import Affine, Granularity, PointId, QParams

Activation = tuple[Tensor, int]
"""Positions of one sample's values on their grid, in steps, and the grid's number of levels."""


@contextmanager
def frozen(rigs: Sequence[Rig]) -> Iterator[None]:
    """While entered no parameter of the model collects gradients."""
    moving = {p for rig in rigs for m in rig.modules() for p in m.parameters(recurse=False)}
    moving = {p for p in moving if p.requires_grad}
    for parameter in moving:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in moving:
            parameter.requires_grad_(True)


@dataclass(slots=True)
class Learner:
    """What is being learned of one tower's points.

    Attributes:
        points: those whose scale is learned, as a factor e^x on the scale that is installed.
        normalised: those whose input comes straight from a LayerNorm, with its channels; gain and
            shift are learned, which is that LayerNorm's affine.
        steps: x for every point of ``points``.
        affines: gain and shift of every point of ``normalised``.
    """

    points: Sequence[TensorQuantizer]
    normalised: Sequence[tuple[TensorQuantizer, int]]
    steps: list[Tensor] = field(init=False)
    affines: list[Affine] = field(init=False)

    def __post_init__(self) -> None:
        scales = [point.qparams.scale for point in self.points]
        self.steps = [torch.zeros_like(scale).requires_grad_() for scale in scales]
        device = scales[0].device if scales else torch.device("cpu")
        self.affines = [
            Affine(
                torch.ones(channels, device=device).requires_grad_(),
                torch.zeros(channels, device=device).requires_grad_(),
            )
            for _, channels in self.normalised
        ]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """While entered the points use what was learned so far, with gradients."""
        try:
            for point, step in zip(self.points, self.steps, strict=True):
                point.learned_scale = point.qparams.scale * step.exp()
            for (point, _), affine in zip(self.normalised, self.affines, strict=True):
                point.set_affine(affine)
            yield
        finally:
            for point in self.points:
                point.learned_scale = None
            for point, _ in self.normalised:
                point.set_affine(None)

    def learned(self) -> tuple[dict[PointId, QParams], dict[PointId, Affine]]:
        """The scales and affines as they are now, detached."""
        scales = {
            point.point: QParams(
                (point.qparams.scale * step.detach().exp()), point.qparams.zero_point
            )
            for point, step in zip(self.points, self.steps, strict=True)
        }
        affines = {
            point.point: Affine(*(t.detach().clone() for t in affine))
            for (point, _), affine in zip(self.normalised, self.affines, strict=True)
        }
        return scales, affines


def open_learner(rig: Rig) -> Learner:
    """Find what can be learned of a tower.

    Token tables are left out: a batch reaches few of their rows; and grids that are not uniform.
    """
    tables = {
        layer.weight_quantizer
        for layer in (*rig.outside, *(la for stage in rig.stages for la in stage.layers))
        if layer.kind == "embedding"
    }
    static = [p for p in rig.points.values() if not p.spec.dynamic and p.spec.uniform]
    points = [p for p in static if p not in tables]
    return Learner(points, _normalised(rig))


def _normalised(rig: Rig) -> list[tuple[TensorQuantizer, int]]:
    """Points that get the very tensor that a LayerNorm returned, with its channels."""
    returned: list[Tensor] = []
    found: dict[TensorQuantizer, int] = {}

    def left(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        returned.append(output)

    def arrived(point: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(point, TensorQuantizer) and any(args[0] is x for x in returned):
            found[point] = args[0].shape[-1]

    norms = [m for m in rig.modules() if isinstance(m, nn.LayerNorm)]
    inputs = [p for p in rig.points.values() if p.point.role == "input"]
    inputs = [p for p in inputs if p.spec.granularity is not Granularity.CHANNEL]
    handles = [norm.register_forward_hook(left) for norm in norms]
    handles += [point.register_forward_pre_hook(arrived) for point in inputs]
    try:
        with switched(inputs, False), torch.no_grad():
            rig.encode(rig.samples[0][:1])
    finally:
        for handle in handles:
            handle.remove()
    return list(found.items())


@contextmanager
def watched(
    stages: Sequence[Stage],
) -> Iterator[tuple[list[Tensor], list[Activation | None]]]:
    """Collect the stream after the last stage and the first activation of every stage.

    One sample's activation is enough for an estimate of its entropy at every step.
    """
    streams: list[Tensor] = []
    found: list[Activation | None] = [None] * len(stages)

    def left(_: object, args: tuple[Tensor, ...], output: Tensor) -> None:
        streams.append(output)

    def arrived(stage: int, point: TensorQuantizer, args: tuple[Tensor, ...]) -> None:
        if found[stage] is None:
            found[stage] = (point.positions(args[0][:1]).flatten(), 1 << point.spec.bits)

    handles = [stages[-1].module.register_forward_hook(left)]
    for i, stage in enumerate(stages):
        points = dict.fromkeys(p for layer in stage.layers for p in layer.input_quantizers)
        handles += [p.register_forward_pre_hook(partial(arrived, i)) for p in points]
    try:
        yield streams, found
    finally:
        for handle in handles:
            handle.remove()
