# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Let gradients move the integers, the scales and the biases of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qkit.errors import CalibrationError
from qkit.graph.layers import Layer
from qkit.nn.tensor_quantizer import TensorQuantizer
from qkit.spec import PointId, QParams, RoundedWeight, Rounding

REACH = 0.45  # levels that a latent value starts from its integer at most: not on the edge


@dataclass(slots=True)
class LearnedWeight:
    """One weight that is being learned, starting from what it is rounded to now.

    Attributes:
        layer: whose weight it is; its weight point has a scale.
        latent: ``(out, in)``, in levels; what is rounded to integers, the gradient passing straight
            through.
        growth: logarithm of the factor on the scale, of the scale's shape.
        correction: ``(out,)``, added to the layer's output.
    """

    layer: Layer
    latent: Tensor = field(init=False)
    growth: Tensor = field(init=False)
    correction: Tensor = field(init=False)

    def __post_init__(self) -> None:
        point = self.point
        weight = self.layer.raw_weight.view(self.layer.weight_shape)
        levels = point.integers(weight).flatten(1).float()
        scale, zero_point = (_by_row(t) for t in point.qparams)
        exact = self.layer.weight_rows / scale + zero_point
        self.latent = (levels + (exact - levels).clamp(-REACH, REACH)).requires_grad_()
        self.growth = torch.zeros_like(point.qparams.scale).requires_grad_()
        old = point.correction
        added = levels.new_zeros(len(levels)) if old is None else old.clone()
        self.correction = added.requires_grad_()

    @property
    def point(self) -> TensorQuantizer:
        """The weight's point."""
        point = self.layer.weight_quantizer
        if point is None:
            message = f"the weight of {self.layer.name} stays in float. Learn rounded weights only."
            raise CalibrationError(message)
        return point

    def rows(self) -> Tensor:
        """The rounded weight ``(out, in)`` as it is now, with gradients."""
        zero_point = _by_row(self.point.qparams.zero_point)
        # straight through the end of the grid too: a value that left it could not come back
        levels = self.latent + (self._levels() - self.latent).detach()
        return (levels - zero_point) * _by_row(self.point.qparams.scale * self.growth.exp())

    def rounded(self) -> RoundedWeight:
        """What was learned so far, detached."""
        point = self.point
        scale = point.qparams.scale * self.growth.detach().exp()
        fixed = self._levels().view(self.layer.weight_shape).to(torch.int16)
        rounding = Rounding(fixed, self.correction.detach().clone())
        return RoundedWeight(QParams(scale, point.qparams.zero_point), rounding)

    def _levels(self) -> Tensor:
        spec = self.point.spec
        return self.latent.detach().round().clamp(spec.quant_min, spec.quant_max)


def _by_row(values: Tensor) -> Tensor:
    return values[:, None] if values.ndim else values


def open_weights(layers: Sequence[Layer]) -> list[LearnedWeight]:
    """All rounded weights of ``layers``; token tables are left out: a batch reaches few rows."""
    return [
        LearnedWeight(layer)
        for layer in layers
        if layer.weight_quantizer is not None and layer.kind != "embedding"
    ]


@contextmanager
def applied(weights: Sequence[LearnedWeight]) -> Iterator[None]:
    """While entered the model uses what was learned so far, with gradients."""
    kept = [weight.point.correction for weight in weights]
    try:
        for weight in weights:
            weight.point.learned_weight = weight.rows()
            weight.point.correction = weight.correction
        yield
    finally:
        for weight, correction in zip(weights, kept, strict=True):
            weight.point.learned_weight = None
            weight.point.correction = correction


def put(layers: Sequence[Layer], rounded: Mapping[PointId, RoundedWeight]) -> None:
    """Fix weights as they were learned; those not named stay as they are."""
    for layer in layers:
        point = layer.weight_quantizer
        if point is not None and point.point in rounded:
            point.set_qparams(rounded[point.point].qparams)
            point.set_rounding(rounded[point.point].rounding)


@contextmanager
def dropping(layers: Sequence[Layer], share: float) -> Iterator[None]:
    """While entered so much of the inputs of ``layers`` stays unrounded, at random."""
    points = {point for layer in layers for point in layer.input_quantizers}
    for point in points:
        point.dropped = share
    try:
        yield
    finally:
        for point in points:
            point.dropped = 0.0
