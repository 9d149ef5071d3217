# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Products of integers spelled as quantize, dequantize and a product of floats behind them.

That is the form in which backends recognise a product to run on int8 kernels. An
input with one scale is quantized with that scale. An input with a scale a row is divided by its
scales first and quantized with the scale 1; scales and the rest of the zero points follow behind
the product, as in ``qkit.runtime.gemm``:

    y = scale_row * (A * scale_out - excess_row * sums_out) + bias
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from qkit.exports.operators import Grid, Operators
from qkit.grids.normal import LARGEST, scaled_codebook
from qkit.nn.integers import IntegerWeight
from qkit.nn.operand import MIDDLE, Rounder
from qkit.nn.rounders import NormalRounder, StaticRounder, TokenRounder
from qkit.nn.tensor_quantizer import TensorQuantizer
from qkit.numerics import EPS, token_qparams


class Levels(NamedTuple):
    """An input in integers, for ``(values - zero - excess) * step * rows``.

    values: uint8 ``(..., in)``; grid: their step and zero point; rows: scales ``(..., 1)``, None
    for 1; excess: ``(..., 1)``, None for 0.
    """

    values: Tensor
    grid: Grid
    rows: Tensor | None = None
    excess: Tensor | None = None


class Quantizer(nn.Module):
    """What makes levels of an input ``(..., in)``.

    Attributes:
        point: the run's own, for its coordinates.
        limits: what a value is clipped to where fewer than 8 bits remain; None for nothing.
    """

    def __init__(
        self, point: TensorQuantizer, scale: float, zero: int, operators: Operators
    ) -> None:
        super().__init__()
        self.point, self.operators = point, operators
        largest = point.spec.quant_max - point.spec.quant_min
        ends = (-zero * scale, (largest - zero) * scale)
        self.limits: tuple[float, float] | None = ends if largest < 255 else None
        self.grid = Grid(scale, zero)

    def _levels(
        self, x: Tensor, rows: Tensor | None = None, excess: Tensor | None = None
    ) -> Levels:
        clipped = x if self.limits is None else x.clamp(*self.limits)
        return Levels(self.operators.quantize(clipped, self.grid), self.grid, rows, excess)


class StaticQuantizer(Quantizer):
    """One scale, fixed by calibration."""

    def __init__(self, rounder: StaticRounder, operators: Operators) -> None:
        super().__init__(rounder.point, rounder.scale, rounder.zero, operators)

    def forward(self, x: Tensor) -> Levels:
        """Levels of ``x``."""
        return self._levels(self.point.coordinates(x))


class TokenQuantizer(Quantizer):
    """A scale a row, from its own range."""

    def __init__(self, rounder: TokenRounder, operators: Operators) -> None:
        super().__init__(rounder.point, 1.0, 1 << (rounder.spec.bits - 1), operators)
        self.clip = rounder.clip

    def forward(self, x: Tensor) -> Levels:
        """Levels of ``x``."""
        z, spec = self.point.coordinates(x), self.point.spec
        q = token_qparams(z, spec, self.clip)
        steps = torch.round(z * (1.0 / q.scale))
        if spec.symmetric:
            return self._levels(steps, q.scale)
        excess = (q.zero_point - (1 << (spec.bits - 1))).to(z.dtype)
        return self._levels(steps + excess, q.scale, excess)


class NormalQuantizer(Quantizer):
    """Levels of a normal grid, whole numbers up to 127, and a scale a row."""

    table: Tensor

    def __init__(self, rounder: NormalRounder, operators: Operators) -> None:
        super().__init__(rounder.point, 1.0, MIDDLE, operators)
        self.limits = None
        self.clip = rounder.clip
        book = scaled_codebook(torch.ones(()), rounder.point.spec.bits)
        self.register_buffer("table", book.levels[book.nearest.long()].float())

    def forward(self, x: Tensor) -> Levels:
        """Levels of ``x``."""
        z = self.point.coordinates(x)
        step = (z.abs().amax(-1, keepdim=True) * (self.clip / LARGEST)).clamp(min=EPS)
        halves = torch.ceil(z * (2 / step)).clamp(-2 * LARGEST, 2 * LARGEST) + 2 * LARGEST
        found = self.table.index_select(0, halves.to(torch.int32).flatten())
        return self._levels(found.view(z.shape), step)


def quantizer_of(rounder: Rounder, operators: Operators) -> Quantizer:
    """What makes levels as ``rounder`` makes operands."""
    if isinstance(rounder, StaticRounder):
        return StaticQuantizer(rounder, operators)
    if isinstance(rounder, NormalRounder):
        return NormalQuantizer(rounder, operators)
    assert isinstance(rounder, TokenRounder)
    return TokenQuantizer(rounder, operators)


class Product(nn.Module):
    """Levels times a weight of integers, with what follows."""

    values: Tensor
    scale: Tensor
    sums: Tensor
    bias: Tensor | None

    def __init__(self, weight: IntegerWeight, bias: Tensor | None, operators: Operators) -> None:
        super().__init__()
        self.operators = operators
        self.register_buffer("values", operators.arrange(weight.values))
        self.register_buffer("scale", weight.scale)
        self.register_buffer("sums", weight.values.sum(1).float() * weight.scale)
        self.register_buffer("bias", bias)

    def forward(self, levels: Levels) -> Tensor:
        """``(..., in)`` to float32 ``(..., out)``."""
        x = self.operators.dequantize(levels.values, levels.grid)
        y = self.operators.linear(x, self.values, self.scale)
        if levels.excess is not None:
            y = y - levels.excess * self.sums
        if levels.rows is not None:
            y = y * levels.rows
        return y if self.bias is None else y + self.bias
