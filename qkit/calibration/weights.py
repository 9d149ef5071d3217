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
from qkit.grids.ladder import Ladder, ladder
from qkit.nn.tensor_quantizer import TensorQuantizer
from qkit.spec import PointId, QParams, RoundedWeight, Rounding

REACH = 0.45  # of the way to the next integer: a latent value starts no further, not on the edge
EDGE = 1e-3  # less than the distance of any two rungs


@dataclass(slots=True)
class LearnedWeight:
    """One weight that is being learned, starting from what it is rounded to now.

    Attributes:
        layer: whose weight it is; its weight point has a scale.
        ladder: the values of its grid.
        latent: ``(out, in)``, in units of the scale; what is rounded to those values, the gradient
            passing straight through.
        growth: logarithm of the factor on the scale, of the scale's shape.
        correction: ``(out,)``, added to the layer's output.
    """

    layer: Layer
    ladder: Ladder = field(init=False)
    latent: Tensor = field(init=False)
    growth: Tensor = field(init=False)
    correction: Tensor = field(init=False)

    def __post_init__(self) -> None:
        point = self.point
        weight = self.layer.raw_weight.view(self.layer.weight_shape)
        self.ladder = ladder(point.qparams, point.spec)
        rungs = self.ladder.rungs(point.integers(weight).flatten(1))
        exact = self.layer.weight_rows / _by_row(point.qparams.scale)
        self.latent = _near(exact, rungs, self.ladder).requires_grad_()
        self.growth = torch.zeros_like(point.qparams.scale).requires_grad_()
        old = point.correction
        added = exact.new_zeros(len(exact)) if old is None else old.clone()
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
        # straight through the end of the grid too: a value that left it could not come back
        nearest = self.ladder.nearest(self.latent.detach())
        rungs = self.latent + (nearest - self.latent).detach()
        return rungs * _by_row(self.point.qparams.scale * self.growth.exp())

    def rounded(self) -> RoundedWeight:
        """What was learned so far, detached."""
        point = self.point
        scale = point.qparams.scale * self.growth.detach().exp()
        nearest = self.ladder.nearest(self.latent.detach())
        fixed = self.ladder.integers(nearest).view(self.layer.weight_shape)
        rounding = Rounding(fixed, self.correction.detach().clone())
        return RoundedWeight(QParams(scale, point.qparams.zero_point), rounding)


def _near(exact: Tensor, rungs: Tensor, ladder: Ladder) -> Tensor:
    """Exact values, but none further from its rung than so much of the way to the next ones."""
    below, _ = ladder.around(rungs - EDGE)
    _, above = ladder.around(rungs + EDGE)
    low, high = rungs - REACH * (rungs - below), rungs + REACH * (above - rungs)
    return torch.minimum(torch.maximum(exact, low), high)


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
