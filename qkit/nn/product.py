# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The product of an integer operand and an integer weight, and what follows, bit for bit.

The order in which scales and bias are applied is that of oneDNN's kernel: with an accumulator A,
the exact sum of products of integers, ``y = A * scale * scale_out + bias``, every product rounded
to float32. Where every row has a scale and a zero point of its own, the rest is done behind it:

    y = scale_row * (A * scale_out - excess_row * sums_out) + bias

with the accumulator of the common zero point and the row sums of the weight. Here A is computed in
floats, so few integers at once that their sums are exact, in whatever order they are added.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple, Self

import torch
from torch import Tensor

from qkit.nn.integers import IntegerWeight
from qkit.nn.operand import Move, Operand, Rounder, inverse_of, nearest_levels
from qkit.nn.rounders import rounder_of
from qkit.nn.tensor_quantizer import TensorQuantizer

LARGEST = 255  # magnitude of an operand's integers
WHOLE = 1 << 24  # up to where float32 holds all integers


class Requantized(NamedTuple):
    """An output in integers: ``value / scale + zero``, rounded, within 0 and ``largest``."""

    scale: float
    zero: int
    largest: int


class Finish(NamedTuple):
    """What follows the sums of products: ``scale``, the weight's scales, bias, activation.

    Attributes:
        scale: of the operand, or 1 where its rows have scales of their own.
        bias: ``(out,)``.
        activation: "none" or "gelu".
        target: how the output is rounded; None leaves it in float32.
    """

    scale: float = 1.0
    bias: Tensor | None = None
    activation: str = "none"
    target: Requantized | None = None


class ExactProduct:
    """A weight with its bias, multiplied as floats."""

    def __init__(self, weight: IntegerWeight, bias: Tensor | None) -> None:
        values, self.scale = weight
        self.packed = self._pack(values)
        self.bias = bias
        self.outer, self.inner = values.shape

    @classmethod
    def rounder_of(cls, point: TensorQuantizer | None) -> Rounder | str:
        """What makes operands of an input that passes ``point``, or why nothing does."""
        return rounder_of(point)

    @classmethod
    def unfit(cls, weight: IntegerWeight) -> str | None:
        """Why a weight is none of this product's; None where it is."""
        return None

    @cached_property
    def sums(self) -> Tensor:
        """Row sums of the weight, ``(out,)``; only rows with zero points of their own need them."""
        one = torch.ones(1, self.inner, dtype=torch.uint8, device=self.scale.device)
        return self._run(Operand(one, 1.0, 0), Finish())[0]

    def __call__(self, operand: Operand, activation: str = "none") -> Tensor:
        """``(rows, in)`` to float32 ``(rows, out)``, ``activation`` applied ("none" or "gelu")."""
        if isinstance(operand.scale, float):
            return self._run(operand, Finish(operand.scale, self.bias, activation))
        result = self._run(operand, Finish())
        if operand.excess is not None:
            result.addr_(operand.excess, self.sums, alpha=-1)
        if self.bias is None:
            result.mul_(operand.scale)
        else:
            torch.addcmul(self.bias, result, operand.scale, out=result)
        return result if activation == "none" else torch.nn.functional.gelu(result)

    def requantized(self, operand: Operand, target: Requantized, activation: str) -> Operand:
        """The same in integers; ``operand`` has one scale for all rows."""
        assert isinstance(operand.scale, float)
        values = self._run(operand, Finish(operand.scale, self.bias, activation, target))
        if target.largest < LARGEST:
            values.clamp_(max=target.largest)
        return Operand(values, target.scale, target.zero)

    def moved(self, fn: Move) -> Self:
        """The same on another device, as ``nn.Module.to`` asks for."""
        packed, bias = fn(self.packed), None if self.bias is None else fn(self.bias)
        kept = {name: v for name, v in vars(self).items() if not name.endswith("sums")}
        other = object.__new__(type(self))
        vars(other).update(kept | {"packed": packed, "scale": fn(self.scale), "bias": bias})
        return other

    @staticmethod
    def _pack(values: Tensor) -> Tensor:
        return values

    def _run(self, operand: Operand, finish: Finish) -> Tensor:
        """``(rows, out)``, in float32 or, rounded for a target, in bytes."""
        result = self._accumulated(operand).float()
        if finish.scale != 1.0:
            result *= finish.scale
        result *= self.scale
        if finish.bias is not None:
            result += finish.bias
        if finish.activation == "gelu":
            result = torch.nn.functional.gelu(result)
        target = finish.target
        if target is None:
            return result
        levels = nearest_levels(result, inverse_of(target.scale), target.zero)
        return levels.clamp_(0, LARGEST).to(torch.uint8)

    def _accumulated(self, operand: Operand) -> Tensor:
        """The sums, ``(rows, out)``, exact, of any type."""
        levels = operand.values.float()
        if operand.zero:
            levels = levels - operand.zero
        size, weight = self._together, self.packed.float()
        if size >= self.inner:
            return levels @ weight.T
        parts = zip(levels.split(size, 1), weight.split(size, 1), strict=True)
        return torch.stack([(rows @ some.T).double() for rows, some in parts]).sum(0)

    @cached_property
    def _together(self) -> int:
        """How many products are summed at once, so that no sum leaves ``WHOLE``."""
        magnitudes, size = self.packed.float().abs(), self.inner
        while max(float(m.sum(1).amax()) for m in magnitudes.split(size, 1)) * LARGEST > WHOLE:
            size = -(-size // 2)
        return size
