# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Weights that stay packed to 4 bits while inputs are floats: less memory, not less arithmetic.

torch's kernels take codes 0 to 15 for -8 to 7 in groups of a row, each group with a scale and a
zero point. Here these are 1 and 0, so that the kernel sums products of inputs and whole numbers,
and a row's one scale and the bias follow as behind any other product. CPUs sum float32, CUDA
devices take inputs in bfloat16.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from qkit.nn.integers import IntegerWeight
from qkit.nn.operand import Move, Operand, Rounder
from qkit.nn.product import ExactProduct
from qkit.nn.tensor_quantizer import TensorQuantizer

LOWEST, HIGHEST = -8, 7
ROWS = 16  # what outputs divide by
GROUPS = (256, 128, 64, 32)  # sizes that both kernels know; inputs divide by the last
TILES = 2  # how many parts of an input CUDA packs together


class FloatRows:
    """An input as it is."""

    def __call__(self, x: Tensor) -> Operand:
        """``x`` ``(rows, in)``, float32."""
        return Operand(x, 1.0, 0)

    whole = __call__

    def move(self, fn: Move) -> None:
        """Nothing to move."""


class WeightOnlyProduct(ExactProduct):
    """A weight of 4-bit integers and its bias; operands are floats."""

    def __init__(self, weight: IntegerWeight, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        width = self.inner + -self.inner % GROUPS[-1]
        self.group = next(size for size in GROUPS if width % size == 0)
        self.units = _units(width // self.group, self.outer, self.packed)

    @classmethod
    def rounder_of(cls, point: TensorQuantizer | None) -> Rounder | str:
        """What makes operands of an input that passes ``point``, or why nothing does."""
        if point is None:
            return FloatRows()
        return "its input is rounded; runtime='int8' multiplies integers"

    @classmethod
    def unfit(cls, weight: IntegerWeight) -> str | None:
        """Why a weight is none of this product's."""
        lowest, highest = map(int, weight.values.aminmax())
        if lowest >= LOWEST and highest <= HIGHEST:
            return None
        return f"its weight takes integers from {lowest} to {highest}, not {LOWEST} to {HIGHEST}"

    def moved(self, fn: Move) -> Self:
        """The same on another device, packed anew where that packs in another way."""
        if fn(self.scale[:0]).device.type == self.packed.device.type:
            other = super().moved(fn)
            other.units = fn(self.units)
            return other
        one = torch.eye(self.inner, device=self.scale.device)
        values = self._accumulated(Operand(one, 1.0, 0)).T.to(torch.int8)
        bias = None if self.bias is None else fn(self.bias)
        return type(self)(IntegerWeight(fn(values), fn(self.scale)), bias)

    @staticmethod
    def _pack(values: Tensor) -> Tensor:
        outer, inner = values.shape
        codes = F.pad(values, (0, -inner % GROUPS[-1], 0, -outer % ROWS)).int() - LOWEST
        if values.is_cuda:
            pairs = (codes[:, ::2] << 4 | codes[:, 1::2]).to(torch.uint8)
            return torch._convert_weight_to_int4pack(pairs, TILES)
        return torch._convert_weight_to_int4pack_for_cpu(codes, TILES)

    def _accumulated(self, operand: Operand) -> Tensor:
        """The sums, ``(rows, out)``."""
        rows = F.pad(operand.values, (0, -self.inner % GROUPS[-1])).to(self.units.dtype)
        cuda = rows.is_cuda
        multiply = torch._weight_int4pack_mm if cuda else torch._weight_int4pack_mm_for_cpu
        sums: Tensor = multiply(rows.contiguous(), self.packed, self.group, self.units)
        return sums[:, : self.outer]


def _units(groups: int, outer: int, like: Tensor) -> Tensor:
    """Scale 1 and zero point 0 for every group of every output, ``(groups, outputs, 2)``."""
    dtype = torch.bfloat16 if like.is_cuda else torch.float32
    units = torch.zeros(groups, outer + -outer % ROWS, 2, dtype=dtype, device=like.device)
    units[..., 0] = 1
    return units
