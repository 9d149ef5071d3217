# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Convolutions: the patch embedding of a ViT, all of a ResNet."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch.nn.functional as F
from torch import Tensor, nn

from qkit.nn.layer import QuantLayer

_MODES = {
    "zeros": "constant",
    "reflect": "reflect",
    "replicate": "replicate",
    "circular": "circular",
}


def _arguments(module: nn.Conv2d) -> dict[str, Any]:
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
    more = ("dilation", "groups", "padding_mode")
    return {name: getattr(module, name) for name in names + more}


class QuantConv2d(QuantLayer, nn.Conv2d):
    """``nn.Conv2d`` with points on input ``(N, C, H, W)`` and weight ``(out, C, kh, kw)``."""

    input_axis: ClassVar[int | None] = 1

    @classmethod
    def from_float(cls, module: nn.Conv2d) -> Self:
        """Take over weight and bias of ``module``."""
        layer = cls(**_arguments(module), device="meta")
        layer.weight, layer.bias = module.weight, module.bias
        return layer.train(module.training)

    def to_float(self) -> nn.Conv2d:
        """An ``nn.Conv2d`` with this layer's parameters."""
        module = nn.Conv2d(**_arguments(self), device="meta")
        module.weight, module.bias = self.weight, self.bias
        return module.train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, out, H', W')``."""
        return self.corrected(self.product(self.quantized_input(x), self.quantized_weight()), -3)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, out, H', W')`` with a weight of one's choice."""
        result: Tensor = self._conv_forward(x, weight, self.bias)
        return result

    def patches(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to one row ``(C * kh * kw)`` for every output position."""
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            x = F.pad(x, self._reversed_padding_repeated_twice, _MODES[self.padding_mode])
            padding: tuple[int, ...] = (0, 0)
        else:
            padding = self.padding
        found = F.unfold(x, self.kernel_size, self.dilation, padding, self.stride)
        return found.transpose(1, 2).flatten(0, 1)
