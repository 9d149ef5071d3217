# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Rounding column by column, each error made good by the columns still to come.

GPTQ (Frantar et al., arXiv 2210.17323), from its equations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qkit.grids.codebook import grid_of
from qkit.grids.ladder import ladder
from qkit.numerics import qparams_from_range
from qkit.spec import Granularity, QParams, QuantSpec, Range

CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)
BLOCK = 64  # columns whose errors are passed on together


def choose_scale(weight: Tensor, moment: Tensor, spec: QuantSpec) -> QParams:
    """Scales for which the nearest integers leave the least error of the output.

    Args:
        weight: ``(out, in)``.
        moment: ``(in, in)``, mean of x x^T over the inputs x.
        spec: how the weight is rounded.
    """
    by_channel = spec.granularity is Granularity.CHANNEL
    low, high = weight.amin(1), weight.amax(1)
    if not by_channel:
        low, high = low.amin(), high.amax()
    best: tuple[Tensor, QParams] | None = None
    for clip in CLIPS:
        q = qparams_from_range(Range(low * clip, high * clip), spec)
        off = grid_of(q, spec, 0, 2).round(weight) - weight
        error = ((off @ moment) * off).sum(1)
        error = error if by_channel else error.sum()
        if best is None:
            best = (error, q)
            continue
        better = error < best[0]
        kept = (torch.where(better, new, old) for new, old in zip(q, best[1], strict=True))
        best = (torch.minimum(error, best[0]), QParams(*kept))
    assert best is not None  # CLIPS is not empty
    return best[1]


def damped(moment: Tensor, share: float) -> Tensor:
    """A moment with ``share`` of its mean diagonal added to the diagonal.

    It stands for the inputs that were not seen: without it directions that a few samples never
    took would be rounded as if nothing ever would.
    """
    eye = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    mean = moment.diagonal().mean()
    return moment + eye * (share * mean if bool(mean > 0) else 1.0)


def solve(weight: Tensor, moment: Tensor, q: QParams, spec: QuantSpec) -> Tensor:
    """Integers ``(out, in)``, int16, of little error of the output.

    Columns go by falling diagonal of the moment: those that matter most have most others left to
    make their error good.

    Args:
        weight: ``(out, in)``.
        moment: ``(in, in)``, mean of x x^T over the inputs x, damped.
        q: scale and zero point, ``()`` or ``(out,)``.
        spec: how the weight is rounded.
    """
    order = torch.argsort(moment.diagonal(), descending=True)
    upper = _inverse_root(moment[order][:, order])
    rest = weight[:, order].clone()
    scale, rungs = q.scale.reshape(-1, 1), ladder(q, spec)
    steps = torch.empty_like(rest)
    for start in range(0, rest.shape[1], BLOCK):
        end = min(start + BLOCK, rest.shape[1])
        errors = torch.empty_like(rest[:, start:end])
        for k in range(start, end):
            column = rest[:, k : k + 1]
            steps[:, k : k + 1] = rungs.nearest(column / scale)
            error = (column - steps[:, k : k + 1] * scale) / upper[k, k]
            rest[:, k:end] -= error * upper[k, k:end]
            errors[:, k - start] = error[:, 0]
        rest[:, end:] -= errors @ upper[start:end, end:]
    return rungs.integers(steps[:, torch.argsort(order)])


def refine(
    weight: Tensor, levels: Tensor, moment: Tensor, q: QParams, spec: QuantSpec
) -> tuple[Tensor, QParams]:
    """One sweep over the columns, each set to its best integers given all others, then the scale.

    Neither step can raise the error: the rung nearest to a parabola's lowest point is its best
    one, and the scale is the least squares fit of the integers to the weight.

    Args:
        weight: ``(out, in)``.
        levels: integers ``(out, in)``.
        moment: ``(in, in)``, mean of x x^T over the inputs x, damped.
        q: scale and zero point, ``()`` or ``(out,)``.
        spec: how the weight is rounded.

    Returns:
        integers, int16, and the scale, in the shape of ``q``.
    """
    scale, rungs = q.scale.reshape(-1, 1), ladder(q, spec)
    steps = rungs.rungs(levels)
    pull = (weight - steps * scale) @ moment
    for k in range(weight.shape[1]):
        old = steps[:, k : k + 1].clone()
        best = rungs.nearest(old + pull[:, k : k + 1] / (moment[k, k] * scale))
        steps[:, k : k + 1] = best
        pull -= (best - old) * scale * moment[k]
    fitted = QParams(_fit(weight, steps, moment, q.scale), q.zero_point)
    return rungs.integers(steps), fitted


def _fit(weight: Tensor, steps: Tensor, moment: Tensor, scale: Tensor) -> Tensor:
    """The scale of least error for given integers; the old one where that is none."""
    reach = steps @ moment
    dots, energy = (reach * weight).sum(1), (reach * steps).sum(1)
    if scale.ndim == 0:
        dots, energy = dots.sum(), energy.sum()
    fitted = dots / energy.clamp(min=torch.finfo(energy.dtype).tiny)
    return torch.where((energy > 0) & (fitted > 0), fitted, scale)


def _inverse_root(moment: Tensor) -> Tensor:
    """Upper Cholesky factor of the inverse of a moment.

    In float64: what few inputs leave of a moment is all but singular.
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moment.double()))
    root: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return root.to(moment.dtype)
