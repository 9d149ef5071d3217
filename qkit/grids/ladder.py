# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The values that a weight's integers stand for, in units of its scale, for those who search them.

Rows come first everywhere: a weight is ``(out, in)``, one of its columns ``(out, 1)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from qkit.grids.normal import ScaledCodebook, normal_units, scaled_codebook, step_of
from qkit.spec import GridKind, QParams, QuantSpec


class Ladder(Protocol):
    """The rungs of a grid."""

    def nearest(self, x: Tensor) -> Tensor:
        """The rung nearest to each value."""
        ...

    def around(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The last rung at or below each value, and the next; twice the same beyond the ends."""
        ...

    def integers(self, rungs: Tensor) -> Tensor:
        """The integers, int16, that rungs are stored as."""
        ...

    def rungs(self, integers: Tensor) -> Tensor:
        """What integers stand for."""
        ...


@dataclass(frozen=True, slots=True)
class Even:
    """Whole numbers between ``low`` and ``high``, both ``(rows, 1)``; ``zero`` is the integer 0."""

    low: Tensor
    high: Tensor
    zero: Tensor

    def nearest(self, x: Tensor) -> Tensor:
        """See ``Ladder.nearest``."""
        return torch.minimum(torch.maximum(x.round(), self.low), self.high)

    def around(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Ladder.around``."""
        below = x.floor()
        both = (torch.minimum(torch.maximum(t, self.low), self.high) for t in (below, below + 1))
        first, second = both
        return first, second

    def integers(self, rungs: Tensor) -> Tensor:
        """See ``Ladder.integers``."""
        return (rungs + self.zero).to(torch.int16)

    def rungs(self, integers: Tensor) -> Tensor:
        """See ``Ladder.rungs``."""
        return integers.float() - self.zero


@dataclass(frozen=True, slots=True)
class Normal:
    """Rungs ``(codes,)`` as a normal distribution wants them; ``first`` is the lowest's integer.

    ``book`` holds the same levels, one after the other in memory by half steps: finding the nearest
    there takes a twentieth of the time of a search among borders.
    """

    units: Tensor
    first: int
    book: ScaledCodebook

    def nearest(self, x: Tensor) -> Tensor:
        """See ``Ladder.nearest``."""
        return self.book.looked_up(x, self.units[self.book.nearest])

    def around(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Ladder.around``."""
        above = torch.bucketize(x, self.units, right=True)
        last = len(self.units) - 1
        return self.units[(above - 1).clamp(min=0)], self.units[above.clamp(max=last)]

    def integers(self, rungs: Tensor) -> Tensor:
        """See ``Ladder.integers``."""
        edges = (self.units[1:] + self.units[:-1]) / 2
        return (torch.bucketize(rungs, edges) + self.first).to(torch.int16)

    def rungs(self, integers: Tensor) -> Tensor:
        """See ``Ladder.rungs``."""
        return self.units[integers.long() - self.first]


def ladder(q: QParams, spec: QuantSpec) -> Ladder:
    """The rungs of a weight's grid.

    Args:
        q: scale and zero point, ``()`` or ``(out,)``.
        spec: how the weight is rounded.
    """
    if spec.grid is GridKind.NORMAL:
        units, unit = normal_units(spec.bits).to(q.scale), q.scale.new_ones(())
        return Normal(units, spec.quant_min, scaled_codebook(step_of(unit, spec), spec.bits))
    zero = q.zero_point.to(q.scale.dtype).reshape(-1, 1)
    return Even(spec.quant_min - zero, spec.quant_max - zero, zero)
