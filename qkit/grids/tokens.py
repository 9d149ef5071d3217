# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Grids whose scale every token sets for itself: evenly spaced, or as a normal distribution wants.

What a rotation mixes is all but normally distributed, and 16 levels that lie as densely as such
values do leave 0.6 to 0.8 dB less error than 16 equidistant ones (Max 1960, Lloyd 1982).

In integers: the levels are whole numbers of 8 bits, so a code stands for an int8 operand of the
product, and the scale of its token for one factor an output row. Kernels that multiply 4-bit
operands themselves cannot run it.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from qkit.numerics import EPS, Grid, make_grid, token_qparams
from qkit.spec import GridKind, QuantSpec

LARGEST = 127  # of the levels: an int8 operand


class TokenCodebook(NamedTuple):
    """Levels that tokens share, and the scale of each token.

    levels: ``(codes,)``, ascending whole numbers up to 127; nearest: ``(2 * 254 + 1,)``, the code
    for each half step from -127 to 127; scale: ``(..., 1)``.
    """

    levels: Tensor
    nearest: Tensor
    scale: Tensor

    def codes(self, z: Tensor) -> Tensor:
        """Index of the level nearest to each value of ``z``; of two equally near, the lower."""
        return self._looked_up(z, self.nearest)

    def round(self, z: Tensor) -> Tensor:
        """``z`` at the nearest levels; the gradient passes straight through between the ends."""
        rounded = self._looked_up(z.detach(), self.levels[self.nearest]).mul_(self.scale)
        if not z.requires_grad:
            return rounded
        inside = z.clamp(self.levels[0] * self.scale, self.levels[-1] * self.scale)
        return inside + (rounded - inside).detach()

    def _looked_up(self, z: Tensor, table: Tensor) -> Tensor:
        """Borders between whole numbers are half steps, so half steps tell on which side one is."""
        halves = (z * (2 / self.scale)).ceil_().clamp_(-2 * LARGEST, 2 * LARGEST)
        index = halves.add_(2 * LARGEST).to(torch.int32).flatten()
        return table.index_select(0, index).view_as(z)


def token_grid(z: Tensor, spec: QuantSpec, clip: float) -> Grid | TokenCodebook:
    """The grid that rounds ``z`` ``(..., features)`` with a scale a token.

    Args:
        z: what is to be rounded.
        spec: per token.
        clip: the part of a token's range that the grid spans; of a normal grid, which has no zero
            point, of its largest magnitude.
    """
    if spec.grid is not GridKind.NORMAL:
        return make_grid(token_qparams(z, spec, clip), spec)
    scale = (z.detach().abs().amax(-1, keepdim=True) * (clip / LARGEST)).clamp(min=EPS)
    levels, nearest = (torch.tensor(t, device=z.device) for t in _tables(spec.bits))
    return TokenCodebook(levels.to(z.dtype), nearest, scale)


@cache
def _tables(bits: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The levels, and which of them is nearest to each half step from -127 to 127."""
    levels = normal_levels(bits)
    whole = torch.tensor(levels)
    halves = torch.arange(-2 * LARGEST, 2 * LARGEST + 1)
    return levels, tuple(torch.bucketize(halves, whole[1:] + whole[:-1]).tolist())


@cache
def normal_levels(bits: int) -> tuple[int, ...]:
    """Levels of least squared error for a normal distribution, in whole numbers up to 127.

    Each is the mean of the values nearest to it (Lloyd's iteration, in closed form).
    """
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    parts = (torch.arange(1 << bits, dtype=torch.float64) + 0.5) / (1 << bits)
    levels = normal.icdf(parts)
    infinite = torch.tensor([torch.inf], dtype=torch.float64)
    for _ in range(1 << (bits + 5)):
        edges = torch.cat([-infinite, (levels[1:] + levels[:-1]) / 2, infinite])
        density = (-edges.square() / 2).exp() / (2 * torch.pi) ** 0.5
        levels = (density[:-1] - density[1:]) / normal.cdf(edges).diff()
    whole = (levels * (LARGEST / levels[-1])).round().int()
    return tuple(whole.tolist())
