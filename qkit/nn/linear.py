# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Linear layers, and the bare matrices that CLIP multiplies its pooled features with."""

from __future__ import annotations

from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn

from qkit.nn.arrival import Arrival
from qkit.nn.layer import QuantLayer


class QuantLinear(QuantLayer, nn.Linear):
    """``nn.Linear`` with an input point ``(..., in)`` and a weight point ``(out, in)``."""

    @classmethod
    def from_float(cls, module: nn.Linear) -> Self:
        """Take over weight and bias of ``module``."""
        layer = cls(module.in_features, module.out_features, device="meta")
        layer.weight, layer.bias = module.weight, module.bias
        return layer.train(module.training)

    def to_float(self) -> nn.Linear:
        """An ``nn.Linear`` with this layer's parameters."""
        module = nn.Linear(self.in_features, self.out_features, device="meta")
        module.weight, module.bias = self.weight, self.bias
        return module.train(self.training)

    def forward(self, x: Tensor, arrival: Arrival | None = None) -> Tensor:
        """``(..., in)`` to ``(..., out)``; ``arrival`` is an input that other layers read, too."""
        arrival = arrival or Arrival(x, self.input_quantizer)
        rows = self.multiplied(arrival)
        if rows is not None:
            return rows.view(*x.shape[:-1], -1)
        return self.output(arrival.rounded, self.quantized_weight())

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """``(..., in)`` to ``(..., out)`` with a weight ``(out, in)`` of one's choice."""
        return F.linear(x, weight, self.bias)


class QuantProjection(QuantLinear):
    """A bare parameter ``(in, out)`` that open_clip applies as ``x @ parameter``.

    It answers ``x @ projection`` as the parameter did, so the tower's own code stays untouched.

    Attributes:
        order: names of the owner's parameters as they were, so that the way back restores it.
    """

    order: tuple[str, ...] = ()

    @classmethod
    def from_parameter(cls, parameter: nn.Parameter, order: tuple[str, ...]) -> Self:
        """Hold the transposed parameter as the weight of a linear layer without bias."""
        layer = cls(*parameter.shape, bias=False, device="meta")
        weight = parameter.detach().t().contiguous()
        layer.weight = nn.Parameter(weight, requires_grad=parameter.requires_grad)
        layer.order = order
        return layer

    def to_parameter(self) -> nn.Parameter:
        """The bare ``(in, out)`` parameter again."""
        weight = self.weight.detach().t().contiguous()
        return nn.Parameter(weight, requires_grad=self.weight.requires_grad)

    def __rmatmul__(self, x: Tensor) -> Tensor:
        result: Any = self(x)
        return result  # type: ignore[no-any-return]
