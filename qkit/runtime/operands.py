# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Inputs as the unsigned 8-bit operands of a product, each rounded as its point rounds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from qkit.grids.normal import LARGEST, ScaledCodebook, scaled_codebook
from qkit.nn.tensor_quantizer import TensorQuantizer
from qkit.numerics import EPS, token_qparams
from qkit.spec import Granularity, GridKind, QuantSpec

MIDDLE = 128  # the zero point of what is made of int8

Move = Callable[[Tensor], Tensor]


class Operand(NamedTuple):
    """Rows that stand for ``(values - zero - excess) * scale``.

    values: uint8 ``(rows, in)``; scale: of all, or ``(rows, 1)``; zero: of all; excess: what
    each row's zero point has beyond that, ``(rows,)``, None for nothing.
    """

    values: Tensor
    scale: float | Tensor
    zero: int
    excess: Tensor | None = None


class Rounder(Protocol):
    """What makes operands of an input."""

    def __call__(self, x: Tensor) -> Operand:
        """Round ``x`` ``(rows, in)``, float32."""

    def move(self, fn: Move) -> None:
        """Move its tensors, as ``nn.Module.to`` asks for."""


class _OfPoint:
    """Rounds as a point does.

    Attributes:
        point: installed; the transform and the gain of its channels are its own.
    """

    def __init__(self, point: TensorQuantizer) -> None:
        self.point = point

    def move(self, fn: Move) -> None:
        """Move its tensors, as ``nn.Module.to`` asks for."""
        self.point._apply(fn)


class StaticRounder(_OfPoint):
    """One scale for the whole input, fixed by calibration.

    Attributes:
        scale: of a step.
        zero: zero point of the unsigned values.
        largest: of the unsigned values.
    """

    def __init__(self, point: TensorQuantizer) -> None:
        super().__init__(point)
        q, spec = point.qparams, point.spec
        self.scale = q.scale.item()
        self.inverse = (1.0 / q.scale).item()
        self.zero = int(q.zero_point) - spec.quant_min
        self.largest = spec.quant_max - spec.quant_min

    def __call__(self, x: Tensor) -> Operand:
        """Round ``x`` ``(rows, in)``, float32."""
        levels = torch.mul(self.point.coordinates(x), self.inverse).round_()
        levels.add_(self.zero - MIDDLE).clamp_(-MIDDLE, self.largest - MIDDLE)
        return Operand(_unsigned(levels), self.scale, self.zero)


class TokenRounder(_OfPoint):
    """A scale for every row, from its own range, as ``numerics.token_qparams`` takes it."""

    def __init__(self, point: TensorQuantizer) -> None:
        super().__init__(point)
        self.spec = point.spec
        self.clip = 1.0 if point.transform is None else point.transform.clip

    def __call__(self, x: Tensor) -> Operand:
        """Round ``x`` ``(rows, in)``, float32."""
        z = self.point.coordinates(x)
        q = token_qparams(z, self.spec, self.clip)
        shift = q.zero_point - self.spec.quant_min
        levels = torch.mul(z, 1.0 / q.scale).round_().add_(shift - MIDDLE)
        levels.clamp_(-MIDDLE, self.spec.quant_max - self.spec.quant_min - MIDDLE)
        if self.spec.symmetric:
            return Operand(_unsigned(levels), q.scale, -self.spec.quant_min)
        middle = 1 << (self.spec.bits - 1)
        excess = (shift - middle).flatten().to(z.dtype)
        return Operand(_unsigned(levels), q.scale, middle, excess)


class NormalRounder(_OfPoint):
    """Levels of a normal grid, which are whole numbers up to 127, and a scale for every row."""

    def __init__(self, point: TensorQuantizer) -> None:
        super().__init__(point)
        self.clip = 1.0 if point.transform is None else point.transform.clip
        book: ScaledCodebook = scaled_codebook(torch.ones(()), point.spec.bits)
        self.table = (book.levels[book.nearest.long()] + MIDDLE).to(torch.uint8)

    def move(self, fn: Move) -> None:
        """Move its tensors, as ``nn.Module.to`` asks for."""
        super().move(fn)
        self.table = fn(self.table)

    def __call__(self, x: Tensor) -> Operand:
        """Round ``x`` ``(rows, in)``, float32."""
        z = self.point.coordinates(x)
        step = (z.abs().amax(-1, keepdim=True) * (self.clip / LARGEST)).clamp(min=EPS)
        halves = (z * (2 / step)).ceil_().clamp_(-2 * LARGEST, 2 * LARGEST).add_(2 * LARGEST)
        values = self.table.index_select(0, halves.to(torch.int32).flatten()).view_as(z)
        return Operand(values, step, MIDDLE)


def rounder_of(point: TensorQuantizer | None) -> Rounder | str:
    """What makes operands of an input that passes ``point``, or why nothing does."""
    if point is None:
        return "its input stays in float"
    reason = _unfit(point.spec)
    if reason is not None:
        return reason
    if not point.spec.dynamic:
        return StaticRounder(point)
    return NormalRounder(point) if point.spec.grid is GridKind.NORMAL else TokenRounder(point)


def _unfit(spec: QuantSpec) -> str | None:
    if spec.granularity is Granularity.CHANNEL:
        return "an input with one scale a channel is no operand of an integer product"
    if not spec.uniform and not (spec.dynamic and spec.grid is GridKind.NORMAL):
        return f"an input on grid = '{spec.grid}' is no int8 operand"
    return None


def _unsigned(levels: Tensor) -> Tensor:
    """Whole numbers from -128 to 127 as uint8, 128 higher; twice as fast as a direct conversion."""
    return levels.to(torch.int8).view(torch.uint8).bitwise_xor_(MIDDLE)
