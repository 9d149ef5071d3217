# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Weights that stay packed to 4 bits while inputs are floats: less memory, not less arithmetic.

A row's whole numbers from -8 to 7 multiply the input as floats; its one scale and the bias follow,
as behind any other product. On CUDA devices torch's kernel unpacks as it multiplies, in bfloat16.
Elsewhere a weight is unpacked for each call and forgotten: torch's kernel for CPUs takes many times
as long in float32.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from qkit.errors import ModelError
from qkit.nn.integers import IntegerWeight
from qkit.nn.operand import Move, Operand, Rounder
from qkit.nn.product import ExactProduct
from qkit.nn.tensor_quantizer import TensorQuantizer

LOWEST, HIGHEST = -8, 7
GROUPS = (256, 128, 64, 32)  # of inputs, that the CUDA kernel knows; inputs divide by the last
ROWS = 8  # what its outputs divide by
TILES = 2  # how many of its tiles of 16 inputs lie together


class FloatRows:
    """An input as it is."""

    def __call__(self, x: Tensor) -> Operand:
        """``x`` ``(rows, in)``, float32."""
        return Operand(x, 1.0, 0)

    whole = __call__

    def move(self, fn: Move) -> None:
        """Nothing to move."""


class PackedProduct(ExactProduct):
    """A weight of 4-bit integers, two a byte, and its bias; operands are floats."""

    @classmethod
    def rounder_of(cls, point: TensorQuantizer | None) -> Rounder | str:
        """What makes operands of an input that passes ``point``, or why nothing does."""
        if point is None:
            return FloatRows()
        return "its input is rounded; runtime='int8' multiplies integers"

    @classmethod
    def unfit(cls, weight: IntegerWeight) -> str | None:
        """Why a weight is none of this product's; None where it is."""
        lowest, highest = map(int, weight.values.aminmax())
        if lowest >= LOWEST and highest <= HIGHEST:
            return None
        return f"its weight takes integers from {lowest} to {highest}, not {LOWEST} to {HIGHEST}"

    @staticmethod
    def _pack(values: Tensor) -> Tensor:
        """The first half of a row in the lower half of each byte, the second in the upper."""
        codes = (F.pad(values, (0, values.shape[1] % 2)) - LOWEST).view(torch.uint8)
        first, second = codes.chunk(2, 1)
        return first | second << 4

    def _values(self) -> Tensor:
        """The weight's whole numbers, float32 ``(out, in)``."""
        outer, half = self.packed.shape
        values = torch.empty(outer, 2 * half, device=self.packed.device)
        values[:, :half] = self.packed & 15
        values[:, half:] = self.packed >> 4
        return values.add_(LOWEST)[:, : self.inner]

    def _accumulated(self, operand: Operand) -> Tensor:
        """The sums, ``(rows, out)``."""
        return operand.values @ self._values().T


class CudaPackedProduct(PackedProduct):
    """The same, which a CUDA device multiplies by torch's kernel once it has been moved there.

    Attributes:
        units: bfloat16 ``(groups, outputs, 2)``: scale 1 and zero point 0 for all groups; None
            before it is on such a device.
    """

    units: Tensor | None = None

    def moved(self, fn: Move) -> Self:
        """The same on another device, as ``nn.Module.to`` asks for.

        Raises:
            ModelError: the weight, laid out for a CUDA device, would leave it.
        """
        other = super().moved(fn)
        if self.units is not None:
            if not other.packed.is_cuda:
                message = (
                    "the weights of this int4 model are laid out for a CUDA device. Load the run "
                    "with device='cpu' instead of moving it."
                )
                raise ModelError(message)
            other.units = fn(self.units)
        elif other.packed.is_cuda:
            other.packed, other.units = _laid_out(other._values())
        return other

    def _accumulated(self, operand: Operand) -> Tensor:
        """The sums, ``(rows, out)``."""
        if self.units is None:
            return super()._accumulated(operand)
        rows = F.pad(operand.values, (0, -self.inner % GROUPS[-1])).bfloat16().contiguous()
        group = rows.shape[1] // len(self.units)
        sums: Tensor = torch._weight_int4pack_mm(rows, self.packed, group, self.units)
        return sums[:, : self.outer]


def _laid_out(values: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers ``(out, in)`` as the CUDA kernel reads them, and its scales and zero points.

    Even inputs go to the upper half of a byte, odd ones to the lower.
    """
    outer, inner = values.shape
    padded = F.pad(values, (0, -inner % GROUPS[-1], 0, -outer % ROWS)).sub_(LOWEST)
    codes, width = padded.to(torch.uint8), padded.shape[1]
    pairs = codes[:, ::2] << 4 | codes[:, 1::2]
    group = next(size for size in GROUPS if width % size == 0)
    units = torch.zeros(width // group, len(codes), 2, dtype=torch.bfloat16, device=values.device)
    units[..., 0] = 1
    return torch._convert_weight_to_int4pack(pairs, TILES), units
