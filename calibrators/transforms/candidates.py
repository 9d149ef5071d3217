# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Families of coordinates; each offers a few for an input, and the error decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from calibrators.transforms.bases import hadamard_factors, principal_axes
from calibrators.transforms.moments import Moments
from qkit.transform import Transform

STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)

Family = Callable[[Tensor, Tensor, tuple[int, ...] | None], Iterator[Transform]]
"""Of rows ``(n, in)``, the weight ``(out, in)`` that reads them, and (C, kh, kw) where rows are
patches."""


def smoothed(rows: Tensor, weight: Tensor, shape: tuple[int, ...] | None) -> Iterator[Transform]:
    """Scales moved from input to weight (SmoothQuant, arXiv 2211.10438, Eq 4).

    z_j = x_j / s_j with s_j = max|x_j|^a / max|w_j|^(1 - a), for several strengths a.
    """
    seen = Moments.of(rows, weight)
    reach = torch.maximum(-seen.low, seen.high)
    reach = reach.clamp(min=1e-3 * float(reach.max()) or 1.0)
    for strength in STRENGTHS:
        yield Transform(gain=_unit(seen.weight_max ** (1 - strength) / reach**strength))


def reparameterized(
    rows: Tensor, weight: Tensor, shape: tuple[int, ...] | None
) -> Iterator[Transform]:
    """Ranges of the channels brought to a common one (RepQ-ViT, arXiv 2212.08254, Eq 6 to 9)."""
    seen = Moments.of(rows, weight)
    width = (seen.high - seen.low).clamp(min=1e-3 * float((seen.high - seen.low).max()) or 1.0)
    yield Transform((seen.low + seen.high) / 2, _unit(1 / width))


def balanced(rows: Tensor, weight: Tensor, shape: tuple[int, ...] | None) -> Iterator[Transform]:
    """Centred; rounding noise spread over the channels so that the output suffers least.

    With one step for all channels after gains g, the output's error is proportional to
    (sum g_j^2 s_j^2) (sum w_j^2 / g_j^2) for deviations s and weight norms w, which is least at
    g_j^2 = w_j / s_j: both factors are then the same sum, so input and weight gain alike.
    """
    seen = Moments.of(rows, weight)
    yield Transform(seen.mean)
    yield Transform(gain=_unit((seen.weight / seen.spread).sqrt()))
    yield Transform(seen.mean, _unit((seen.weight / seen.deviation).sqrt()))


def rotated(rows: Tensor, weight: Tensor, shape: tuple[int, ...] | None) -> Iterator[Transform]:
    """As ``balanced``, then turned so that no channel stands out (QuaRot, arXiv 2404.00456)."""
    factors = hadamard_factors(rows.shape[1])
    if factors is None:
        return
    factors = tuple(factor.to(rows) for factor in factors)
    seen = Moments.of(rows, weight)
    signs = _signs(rows)
    yield Transform(gain=signs, after=factors)
    yield Transform(seen.mean, signs, after=factors)
    gain = _unit((seen.weight / seen.deviation).sqrt())
    yield Transform(seen.mean, gain * signs, after=factors)


def frequencies(rows: Tensor, weight: Tensor, shape: tuple[int, ...] | None) -> Iterator[Transform]:
    """Patches taken apart into their principal axes, balanced there, and rotated.

    Neighbouring pixels are alike, so a step for all pixels spends most of its levels on what they
    share.
    """
    factors = hadamard_factors(rows.shape[1])
    if shape is None or factors is None:
        return
    factors = tuple(factor.to(rows) for factor in factors)
    axes = principal_axes(rows, shape)
    plain = Transform(before=axes)
    seen = Moments.of(plain.into(rows), plain.weight_into(weight))
    gain = _unit((seen.weight / seen.deviation).sqrt()) * _signs(rows)
    yield Transform(plain.out_of(seen.mean), gain, axes, factors)


FAMILIES: dict[str, Family] = {
    "smooth": smoothed,
    "reparameterize": reparameterized,
    "balance": balanced,
    "rotate": rotated,
    "frequencies": frequencies,
}


def _unit(gain: Tensor) -> Tensor:
    """Gains with a geometric mean of 1."""
    return gain / gain.log().mean().exp()


def _signs(rows: Tensor) -> Tensor:
    """Random signs, the same at every call: what many channels share does not gather in one."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (rows.shape[1],), generator=generator)
    return (signs * 2 - 1).to(rows)
