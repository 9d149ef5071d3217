# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Running sums of errors: all that outlives a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qkit.grids.codebook import outermost
from qkit.nn.tensor_quantizer import TensorQuantizer
from qkit.numerics import along, sqnr_db
from qkit.spec import Range


def energy(x: Tensor) -> float:
    """Sum of squares; rows in the tensor's own precision, their sum in float64."""
    return float(torch.linalg.vector_norm(x, dim=-1).double().square().sum())


@dataclass(slots=True)
class ErrorSums:
    """Float output against what is off, over all values of one layer's or block's output."""

    signal: float = 0.0
    noise: float = 0.0
    energy: float = 0.0

    def add(self, output: Tensor, off: Tensor) -> None:
        """Take in a float output and the same output computed otherwise."""
        self.signal += energy(output)
        self.noise += energy(off - output)
        self.energy += energy(off)

    @property
    def sqnr_db(self) -> float:
        """Signal to noise in dB."""
        return sqnr_db(self.signal, self.noise)

    @property
    def cosine(self) -> float:
        """Cosine of the two over all values; 1 where both are zero."""
        norm = math.sqrt(self.signal * self.energy)
        if norm == 0:
            return 1.0
        return max(-1.0, min(1.0, (self.signal + self.energy - self.noise) / (2 * norm)))


@dataclass(slots=True)
class InputSums:
    """How a static point cuts off what passes it, and how far each channel reaches.

    Attributes:
        clipped: values beyond the grid's ends.
        values: values counted.
        reach: smallest and largest value of each channel, ``(channels,)``; None before any came.
    """

    clipped: int = 0
    values: int = 0
    reach: Range | None = None

    def add(self, x: Tensor, axis: int) -> None:
        """Take in the ends of every channel of ``x``."""
        low, high = torch.aminmax(x.movedim(axis, -1).flatten(0, -2), dim=0)
        if self.reach is not None:
            low = torch.minimum(low, self.reach.min)
            high = torch.maximum(high, self.reach.max)
        self.reach = Range(low, high)

    def add_clipping(self, x: Tensor, point: TensorQuantizer) -> None:
        """Count the values of ``x`` that lie beyond the outermost integers of ``point``."""
        low, high = grid_ends(point, x.ndim)
        least, most = torch.aminmax(x)
        if bool((least < low).any()):  # most grids clip nothing, and counting costs more
            self.clipped += int(torch.count_nonzero(x < low))
        if bool((most > high).any()):
            self.clipped += int(torch.count_nonzero(x > high))
        self.values += x.numel()

    @property
    def share_clipped(self) -> float | None:
        """Share of the values clipped; None where none was counted."""
        return self.clipped / self.values if self.values else None


def grid_ends(point: TensorQuantizer, ndim: int) -> tuple[Tensor, Tensor]:
    """Values up to which a static point rounds and beyond which it clips, broadcastable.

    Of a grid that is not uniform these are its outermost values.
    """
    scale, zero_point = point.qparams
    if not point.spec.uniform:
        ends = outermost(point.qparams, point.spec)
        low, high = (along(end, point.axis, ndim) if end.ndim else end for end in ends)
        return low, high
    if scale.ndim:
        shape = [-1 if d == point.axis % ndim else 1 for d in range(ndim)]
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    low = (point.spec.quant_min - zero_point - 0.5) * scale
    high = (point.spec.quant_max - zero_point + 0.5) * scale
    return low, high
