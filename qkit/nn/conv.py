# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Convolutions: the patch embedding of a ViT, all of a ResNet."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch.nn.functional as F
from torch import Tensor, nn

from qkit.nn.arrival import Arrival
from qkit.nn.layer import QuantLayer
from qkit.nn.tensor_quantizer import Mode

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
    output_axis: ClassVar[int] = -3

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
        found = self._cut_and_multiplied(x) if self.rounds_patches else None
        if found is not None:
            return found
        return self.output(self.quantized_input(x), self.quantized_weight())

    @property
    def rounds_patches(self) -> bool:
        """Whether patches can be rounded in the place of the input, for a product of integers."""
        point = self.input_quantizer
        return point is not None and point.gain is None and self.cuts_patches

    def _cut_and_multiplied(self, x: Tensor) -> Tensor | None:
        patches = cut_patches(x, self.kernel_size)
        rows = self.multiplied(Arrival(patches, self.input_quantizer))
        return None if rows is None else rows.view(*patches.shape[:3], -1).permute(0, 3, 1, 2)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, out, H', W')`` with a weight of one's choice."""
        result: Tensor = self._conv_forward(x, weight, self.bias)
        return result

    @property
    def cuts_patches(self) -> bool:
        """Whether every input value is read at one output position only, as in a ViT's stem."""
        apart = self.kernel_size == self.stride and self.groups == 1
        return apart and set(self.padding) == {0} and set(self.dilation) == {1}

    def quantized_input(self, x: Tensor) -> Tensor:
        """Pass ``x`` through the input point; its tokens are patches, or else whole inputs.

        A scale of its own is possible for what no other position reads.
        """
        point = self.input_quantizer
        if point is None or not (point.spec.dynamic or point.transform is not None):
            return super().quantized_input(x)
        if not self.cuts_patches:
            passed: Tensor = point(x.flatten(1))
            return passed.view_as(x)
        if point.mode is Mode.OFF:
            return x
        tokens = self.patches(x).unflatten(0, (len(x), -1))
        return self._joined(point(tokens), x)

    def _joined(self, tokens: Tensor, like: Tensor) -> Tensor:
        """Patches ``(N, positions, C * kh * kw)`` as an input again; what none reads is kept."""
        high, wide = self.stride
        covered = (like.shape[-2] // high * high, like.shape[-1] // wide * wide)
        joined = F.fold(tokens.transpose(1, 2), covered, self.kernel_size, stride=self.stride)
        if joined.shape == like.shape:
            return joined
        whole = like.clone()
        whole[..., : covered[0], : covered[1]] = joined
        return whole

    def patches(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to one row ``(C * kh * kw)`` for every output position."""
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            x = F.pad(x, self._reversed_padding_repeated_twice, _MODES[self.padding_mode])
            padding: tuple[int, ...] = (0, 0)
        else:
            padding = self.padding
        found = F.unfold(x, self.kernel_size, self.dilation, padding, self.stride)
        return found.transpose(1, 2).flatten(0, 1)


def cut_patches(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """``(N, C, H, W)`` to ``(N, H', W', C * high * wide)``; what no whole window holds is left out.

    Args:
        x: pixels.
        size: (high, wide) of a window.
    """
    high, wide = size
    down, across = x.shape[-2] // high, x.shape[-1] // wide
    whole = x[..., : down * high, : across * wide].unflatten(-1, (across, wide))
    rows: Tensor = whole.unflatten(2, (down, high)).permute(0, 2, 4, 1, 3, 5).flatten(3)
    return rows
