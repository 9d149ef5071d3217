# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A low-bit bottleneck beside the image feature, rounded while it learns."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkit.graph.layers import Layer, list_points
from qkit.nn.linear import QuantLinear
from qkit.nn.tensor_quantizer import Mode, TensorQuantizer
from qkit.numerics import EPS
from qkit.spec import Granularity, QParams, QuantSpec, Scheme


class QuantAdapter(nn.Module):
    """``ratio * A(z) + (1 - ratio) * z`` with A: dim, dim / reduction, ReLU, dim (QAdapter of P4Q).

    Weights have a scale a row, inputs one a feature vector, taken at run time. While it trains, a
    weight's scale follows the weight, so that none is ever clipped, and the gradient passes
    straight through the rounding. In mode OFF it passes features on as they are: the float model
    has no adapter.

    Attributes:
        ratio: share of the bottleneck in the result.
        bits: of weights and inputs; None for float.
        down: ``(dim / reduction, dim)``, with bias.
        up: ``(dim, dim / reduction)``, with bias.
    """

    def __init__(self, width: int, hidden: int, ratio: float, bits: int | None) -> None:
        super().__init__()
        self.ratio = ratio
        self.bits = bits
        self.down = QuantLinear(width, hidden)
        self.up = QuantLinear(hidden, width)
        if bits is not None:
            weight = QuantSpec(bits, symmetric=True, granularity=Granularity.CHANNEL)
            scheme = Scheme(weight=weight, input=QuantSpec(bits, granularity=Granularity.TOKEN))
            for layer in self.layers:
                layer.module.attach(layer.name, scheme)  # type: ignore[arg-type]
                for point in layer.points:
                    point.set_mode(Mode.QUANTIZE)
        self.fit_scales()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Both linear layers, named within the adapter."""
        return tuple(
            Layer(name, "image", "linear", module)
            for name, module in (("down", self.down), ("up", self.up))
        )

    def forward(self, features: Tensor) -> Tensor:
        """Image features ``(N, dim)``, not normalised, to the same."""
        if self._off:
            return features
        if self.training:
            self.fit_scales()
        inner: Tensor = self.up(F.relu(self.down(features)))
        return self.ratio * inner + (1 - self.ratio) * features

    def after(self, _tower: nn.Module, _args: Any, output: Any) -> Any:
        """A forward hook for an image tower; what it returns beside the feature stays as it is."""
        if isinstance(output, tuple):
            return (self(output[0]), *output[1:])
        return self(output)

    def fit_scales(self) -> None:
        """Let the largest magnitude of each row of a weight be the grid's last level."""
        for layer in (self.down, self.up):
            point = layer.weight_quantizer
            if point is not None:
                point.set_qparams(_full_range(layer.weight.detach(), point))

    def freeze(self) -> None:
        """End the training: scales are those of the weights as they are now."""
        self.fit_scales()
        self.requires_grad_(False).eval()

    @property
    def _off(self) -> bool:
        point = next(iter(list_points(self.down)), None)  # none in float, or once in integers
        return point is not None and point.mode is Mode.OFF


def new_adapter(
    width: int, reduction: int, ratio: float, bits: int | None, seed: int
) -> QuantAdapter:
    """A fresh adapter for features of a width, the same for the same seed."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        return QuantAdapter(width, max(1, width // reduction), ratio, bits)


def _full_range(weight: Tensor, point: TensorQuantizer) -> QParams:
    """Not absmax / 7.5 as for given weights: that clips the largest, which then cannot learn."""
    scale = (weight.abs().amax(dim=1) / point.spec.quant_max).clamp(min=EPS)
    return QParams(scale, torch.zeros_like(scale, dtype=torch.int32))
