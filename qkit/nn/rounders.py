# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What makes the operands of an integer product, each rounded as its point rounds it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from qkit.grids.normal import LARGEST, ScaledCodebook, scaled_codebook
from qkit.nn.operand import MIDDLE, Move, Operand, Rounder, inverse_of, nearest_levels
from qkit.nn.tensor_quantizer import TensorQuantizer
from qkit.numerics import EPS, token_qparams
from qkit.spec import Granularity, GridKind, QuantSpec


class _OfPoint(ABC):
    """Rounds as a point does.

    Attributes:
        point: installed; the transform and the gain of its channels are its own.
        zero: zero point of the bytes.
    """

    zero: int = MIDDLE

    def __init__(self, point: TensorQuantizer) -> None:
        self.point = point

    def __call__(self, x: Tensor) -> Operand:
        """Round ``x`` ``(rows, in)``, float32, to bytes."""
        levels, scale, _, excess = self.whole(x)
        return Operand(_unsigned(levels.add_(self.zero - MIDDLE)), scale, self.zero, excess)

    @abstractmethod
    def whole(self, x: Tensor) -> Operand:
        """The same as whole numbers in float32, the zero point taken off."""

    def move(self, fn: Move) -> None:
        """Move its tensors, as ``nn.Module.to`` asks for."""
        self.point._apply(fn)


class StaticRounder(_OfPoint):
    """One scale for the whole input, fixed by calibration.

    It rounds as the kernel does that rounds its output for the next layer.

    Attributes:
        scale: of a step.
        largest: of the unsigned values.
    """

    def __init__(self, point: TensorQuantizer) -> None:
        super().__init__(point)
        q, spec = point.qparams, point.spec
        self.scale = q.scale.item()
        self.inverse = inverse_of(self.scale)
        self.zero = int(q.zero_point) - spec.quant_min
        self.largest = spec.quant_max - spec.quant_min

    def whole(self, x: Tensor) -> Operand:
        """The same as whole numbers in float32, the zero point taken off."""
        levels = nearest_levels(self.point.coordinates(x), self.inverse, self.zero)
        return Operand(levels.clamp_(0, self.largest).sub_(self.zero), self.scale, 0)


class TokenRounder(_OfPoint):
    """A scale for every row, from its own range, as ``numerics.token_qparams`` takes it."""

    def __init__(self, point: TensorQuantizer) -> None:
        super().__init__(point)
        self.spec = point.spec
        self.clip = 1.0 if point.transform is None else point.transform.clip
        self.zero = -self.spec.quant_min if self.spec.symmetric else 1 << (self.spec.bits - 1)

    def whole(self, x: Tensor) -> Operand:
        """The same as whole numbers in float32, the zero point taken off."""
        z = self.point.coordinates(x)
        q = token_qparams(z, self.spec, self.clip)
        levels, steps = torch.mul(z, 1.0 / q.scale).round_(), 1 << self.spec.bits
        if self.spec.symmetric:
            return Operand(levels.clamp_(-self.zero, steps - 1 - self.zero), q.scale, 0)
        excess = (q.zero_point - self.spec.quant_min - self.zero).to(z.dtype)
        levels.add_(excess).clamp_(-self.zero, steps - 1 - self.zero)
        return Operand(levels, q.scale, 0, excess.flatten())


class NormalRounder(_OfPoint):
    """Levels of a normal grid, which are whole numbers up to 127, and a scale for every row."""

    def __init__(self, point: TensorQuantizer) -> None:
        super().__init__(point)
        self.clip = 1.0 if point.transform is None else point.transform.clip
        book: ScaledCodebook = scaled_codebook(torch.ones(()), point.spec.bits)
        self.levels = book.levels[book.nearest.long()]
        self.table = (self.levels + MIDDLE).to(torch.uint8)

    def move(self, fn: Move) -> None:
        """Move its tensors, as ``nn.Module.to`` asks for."""
        super().move(fn)
        self.levels, self.table = fn(self.levels), fn(self.table)

    def __call__(self, x: Tensor) -> Operand:
        """Round ``x`` ``(rows, in)``, float32, to bytes."""
        return Operand(*self._looked_up(x, self.table), MIDDLE)

    def whole(self, x: Tensor) -> Operand:
        """The same as whole numbers in float32, the zero point taken off."""
        return Operand(*self._looked_up(x, self.levels), 0)

    def _looked_up(self, x: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        z = self.point.coordinates(x)
        step = (z.abs().amax(-1, keepdim=True) * (self.clip / LARGEST)).clamp(min=EPS)
        halves = (z * (2 / step)).ceil_().clamp_(-2 * LARGEST, 2 * LARGEST).add_(2 * LARGEST)
        return table.index_select(0, halves.to(torch.int32).flatten()).view_as(z), step


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
