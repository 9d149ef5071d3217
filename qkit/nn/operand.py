# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""An input as the operand of an integer product, and what makes one.

A kernel takes unsigned bytes. A simulation takes the same whole numbers as floats, which spares it
the way to bytes and back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

MIDDLE = 128  # the zero point of what is made of int8

Move = Callable[[Tensor], Tensor]


class Operand(NamedTuple):
    """Rows that stand for ``(values - zero - excess) * scale``.

    values: uint8 ``(rows, in)``, or whole numbers in float32; scale: of all, or ``(rows, 1)``;
    zero: of all; excess: what each row's zero point has beyond that, ``(rows,)``, None for nothing.
    """

    values: Tensor
    scale: float | Tensor
    zero: int
    excess: Tensor | None = None


def nearest_levels(x: Tensor, inverse: float, zero: int) -> Tensor:
    """``x`` on a grid of unsigned integers that is not cut yet, in the order of oneDNN's kernel.

    The zero point joins before rounding; another order rounds some values to the level beside.

    Args:
        x: float32.
        inverse: of the scale, see ``inverse_of``.
        zero: zero point.
    """
    return torch.mul(x, inverse).add_(zero).round_()


def inverse_of(scale: float) -> float:
    """The reciprocal as float32 has it."""
    return (1.0 / torch.tensor(scale, dtype=torch.float32)).item()


class Rounder(Protocol):
    """What makes operands of an input."""

    def __call__(self, x: Tensor) -> Operand:
        """Round ``x`` ``(rows, in)``, float32, to bytes."""

    def whole(self, x: Tensor) -> Operand:
        """The same as whole numbers in float32, the zero point taken off."""

    def move(self, fn: Move) -> None:
        """Move its tensors, as ``nn.Module.to`` asks for."""
