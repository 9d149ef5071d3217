# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The kinds of grids, each with its formula, its source and how it is executed in integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from qkit.spec import GridKind

OCTAVES = 16  # shifted by 15, an 8-bit operand leaves an int32 room for 512 terms
GELU_REACH = 0.17  # below the least value of a GELU (-0.16997) and of its sigmoid form (-0.1637)
TOLERANCE = 1e-3  # the tanh form of a GELU reaches -0.17004


@dataclass(frozen=True, slots=True)
class Logarithmic:
    """Units 0 and 2^(-k/n), k = 0, 1, ...; the integer is n, the steps an octave.

    n = 1 is FQ-ViT's log2 (arXiv 2111.13824), n = 2 RepQ-ViT's log-sqrt2 (arXiv 2212.08254), both
    with a scale that calibration chooses; to choose n by the data, and an offset for what a GELU
    puts out, follows AdaLog (arXiv 2407.12951), which chooses q of base 2^(q/37). Not theirs: one
    code is an exact zero, for masked probabilities, and at most 16 octaves are used.

    In integers: with k = n * e + j, 0 <= j < n, the product with an operand v of integers is
    ``scale * sum_j 2^(-j/n) * 2^-15 * A_j``, where accumulator A_j adds v << (15 - e) over all
    codes with that j: shifts and additions, then n multiplications an output. An int32 holds A_j
    of 512 terms of 8 bits, or 8192 of 4 bits. The offset adds -offset times the sum of the
    operand's rows, which joins the bias.
    """

    parameters: tuple[int, ...]
    offset: float = 0.0

    @property
    def least(self) -> float:
        """Nothing lies below the zero code."""
        return -self.offset

    def units(self, bits: int, parameter: int) -> Tensor:
        """Zero, then powers of two, of one octave after the other."""
        codes = min((1 << bits) - 1, OCTAVES * parameter)
        k = torch.arange(codes - 1, -1, -1, dtype=torch.float64)
        # the power of two apart, so that the values of all octaves are exact shifts of one's
        powers = torch.exp2(-(k % parameter) / parameter) * torch.exp2(-(k // parameter))
        return torch.cat([powers.new_zeros(1), powers])


@dataclass(frozen=True, slots=True)
class Twin:
    """Two uniform halves, i = 0 .. 2^(bits-1) - 1 each: units i and i * 2^m; the integer is m.

    PTQ4ViT's twin uniform grid (arXiv 2111.12293). The fine half lies near zero or,
    ``signed``, below it. One bit of a code names its half.

    In integers: two accumulators, one a half; the product with an operand of integers is
    ``scale * (A_fine + (A_coarse << m))``, signed or not.
    """

    signed: bool
    parameters: tuple[int, ...] = tuple(range(16))
    offset: float = 0.0

    @property
    def least(self) -> float | None:
        """Only a signed one has values below zero."""
        return None if self.signed else 0.0

    def units(self, bits: int, parameter: int) -> Tensor:
        """Both halves, values that they share once."""
        half = torch.arange(1 << (bits - 1), dtype=torch.float64)
        both: Tensor = torch.cat([-half if self.signed else half, half * 2.0**parameter]).unique()
        return both + 0.0  # no -0.0


Shape = Logarithmic | Twin

STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
SHAPES: Mapping[GridKind, Shape] = MappingProxyType(
    {
        GridKind.LOG2: Logarithmic((1,)),
        GridKind.LOG_SQRT2: Logarithmic((2,)),
        GridKind.LOG: Logarithmic(STEPS),
        GridKind.TWIN: Twin(signed=False),
        GridKind.TWIN_SIGNED: Twin(signed=True),
        GridKind.SHIFTED_LOG: Logarithmic(STEPS, offset=GELU_REACH),
    }
)


def holds(grid: GridKind, low: float) -> bool:
    """Whether a grid that is not uniform is made for a tensor whose smallest value is ``low``."""
    least = SHAPES[grid].least if grid in SHAPES else None
    return least is None or low >= least - TOLERANCE
