# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The best ranges of one layer by itself: least error of its output, input first, then weight.

A weight is never clipped without looking at what it meets: the error is that of the product.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qkit.grids.codebook import grid_of
from qkit.numerics import fake_quantize, make_grid, qparams_from_range
from qkit.spec import QParams, QuantSpec, Range

SHRINK = tuple(0.72**k for k in range(14))  # from the full range to a hundredth
REFINE = (0.79, 0.89, 1.12, 1.27)
ONE_END = (0.5, 0.7, 0.85, 0.93, 1.07, 1.15, 1.3, 1.6)
SKETCH = 96  # outputs that stand for all in the search of an input range
WEIGHT = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.4, 0.3)


def choose_input(rows: Tensor, weight: Tensor, full: Range, spec: QuantSpec) -> QParams:
    """Search both ends of a per-tensor input range.

    Args:
        rows: inputs ``(n, in)``.
        weight: ``(out, in)`` of all layers that read this input.
        full: smallest and largest value seen.
        spec: bits and symmetry of the input.
    """

    def error(low: Tensor, high: Tensor) -> float:
        grid = make_grid(qparams_from_range(Range(low, high), spec), spec)
        off = fake_quantize(rows, grid).sub_(rows)
        return float((off @ weight.T).square().sum())

    weight = _sketched(weight)
    low, high = full.min.clamp(max=0), full.max.clamp(min=0)
    best = _best([(low * f, high * f) for f in SHRINK], error)
    best = _best([best, *((best[0] * f, best[1] * f) for f in REFINE)], error)
    if not spec.symmetric:
        for _ in range(2):
            best = _best([best, *((best[0] * f, best[1]) for f in ONE_END)], error)
            best = _best([best, *((best[0], best[1] * f) for f in ONE_END)], error)
    return qparams_from_range(Range(*best), spec)


def _sketched(weight: Tensor) -> Tensor:
    """A random projection of the outputs: it keeps sums of squares on average, at less work."""
    if len(weight) <= SKETCH:
        return weight
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(SKETCH, len(weight), generator=generator) / SKETCH**0.5
    mixed: Tensor = mix.to(weight) @ weight
    return mixed


def _best(
    ends: list[tuple[Tensor, Tensor]], error: Callable[[Tensor, Tensor], float]
) -> tuple[Tensor, Tensor]:
    return min(ends, key=lambda pair: error(*pair))


def choose_weight(rows: Tensor, weight: Tensor, full: Range, spec: QuantSpec) -> QParams:
    """Search one factor for every output channel, or one for all where the scale is per tensor.

    Args:
        rows: rounded inputs ``(n, in)``.
        weight: ``(out, in)``.
        full: ends of the weight, ``(out,)`` or ``()``.
        spec: how the weight is quantized.
    """
    errors, found = [], []
    for factor in WEIGHT:
        q = qparams_from_range(Range(full.min * factor, full.max * factor), spec)
        off = grid_of(q, spec, 0, 2).round(weight).sub_(weight)
        error = (rows @ off.T).square().sum(0)
        errors.append(error if q.scale.ndim else error.sum())
        found.append(q)
    index = torch.stack(errors).argmin(dim=0, keepdim=True)
    scale, zero_point = (torch.stack(part).gather(0, index)[0] for part in zip(*found, strict=True))
    return QParams(scale, zero_point)
