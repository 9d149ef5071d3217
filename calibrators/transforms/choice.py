# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Which candidate a layer gets: the one whose rounded product is nearest to the float one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calibrators.rows import row_weights
from calibrators.transforms.candidates import FAMILIES
from qkit.grids.codebook import grid_of
from qkit.grids.tokens import token_grid
from qkit.numerics import fake_quantize, make_grid, qparams_from_range
from qkit.spec import Granularity, QuantSpec, Range
from qkit.transform import Transform

CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
USUAL = 0.95  # the clip at which candidates are compared
WEIGHT_CLIPS = (1.0, 0.9, 0.8, 0.7)


@dataclass(frozen=True, slots=True)
class Reader:
    """A weight ``(out, in)`` that reads an input, and how it is rounded; None is float."""

    weight: Tensor
    spec: QuantSpec | None


@dataclass(frozen=True, slots=True)
class Choice:
    """The search for one input.

    Attributes:
        rows: ``(n, in)``, as they arrive.
        readers: all that read it.
        spec: how the input is rounded.
        patch: (C, kh, kw) where rows are patches.
    """

    rows: Tensor
    readers: Sequence[Reader]
    spec: QuantSpec
    patch: tuple[int, ...] | None = None

    def best(self, families: Iterable[str]) -> tuple[Transform, float]:
        """The best candidate of all ``families``, and its error relative to no transform's.

        Leaving the input as it is is always a candidate.
        """
        weight = torch.cat([reader.weight for reader in self.readers])
        found = [Transform()]
        for name in families:
            found += FAMILIES[name](self.rows, weight, self.patch)
        if self.spec.dynamic:
            usual = min((self._clipped(one, USUAL) for one in found), key=self.error)
            found = [found[0], *(self._clipped(usual, clip) for clip in CLIPS)]
        errors = [self.error(one) for one in found]
        plain, least = errors[0], min(errors)
        return found[errors.index(least)], least / plain if plain > 0 else 1.0

    @staticmethod
    def _clipped(transform: Transform, clip: float) -> Transform:
        sides = [transform.factors(side) for side in ("before", "after")]
        return Transform(transform.shift, transform.gain, sides[0], sides[1], clip)

    def error(self, transform: Transform) -> float:
        """Squared error of the products of all readers, by the inverse energy of the rows."""
        z = transform.into(self.rows)
        rounded = self._rounded(z, transform.clip)
        total = z.new_zeros(len(z))
        for reader in self.readers:
            weight = transform.weight_into(reader.weight)
            kept = weight if reader.spec is None else round_weight(weight, reader.spec)
            total += (rounded @ kept.T - z @ weight.T).square().sum(1)
        return float((total * row_weights(self.rows)).sum())

    def _rounded(self, z: Tensor, clip: float) -> Tensor:
        if self.spec.dynamic:
            return token_grid(z, self.spec, clip).round(z)
        q = qparams_from_range(Range(z.amin(), z.amax()), self.spec)
        return fake_quantize(z, make_grid(q, self.spec))


def round_weight(weight: Tensor, spec: QuantSpec) -> Tensor:
    """A weight rounded with scales of least squared error, out of a few."""
    rows = weight if spec.granularity is Granularity.CHANNEL else weight.reshape(1, -1)
    best = error = None
    for clip in WEIGHT_CLIPS:
        q = qparams_from_range(Range(rows.amin(1) * clip, rows.amax(1) * clip), spec)
        rounded = grid_of(q, spec, 0, 2).round(rows)
        off = (rounded - rows).square().sum(1)
        if best is None or error is None:
            best, error = rounded, off
            continue
        better = off < error
        best = torch.where(better[:, None], rounded, best)
        error = torch.minimum(off, error)
    assert best is not None  # WEIGHT_CLIPS is not empty
    return best.view_as(weight)
