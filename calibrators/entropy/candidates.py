# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The scales that are tried for one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from calibrators.percentile import quantile
from qkit.numerics import qparams_from_range
from qkit.spec import QParams, QuantSpec, Range, TensorStats


def candidates(
    own: QParams,
    stats: TensorStats,
    spec: QuantSpec,
    percentiles: Sequence[float],
    factors: Sequence[float],
) -> list[QParams]:
    """The tensor's own best scale first, then percentiles of its values, then its multiples.

    Args:
        own: the best scale of the layer by itself.
        stats: what was seen of the tensor.
        spec: how it is quantized.
        percentiles: shares of the values to keep at either end, 0.5 to 1 (the paper: 0.98 to 1).
        factors: multiples of ``own`` to try.
    """
    found = [own]
    found += [qparams_from_range(_percentile(stats, share), spec) for share in percentiles]
    found += [QParams(own.scale * factor, own.zero_point) for factor in factors]
    return _distinct(found)


def _percentile(stats: TensorStats, share: float) -> Range:
    if share >= 1:
        return Range(stats.min_val, stats.max_val)
    if stats.histogram is not None:
        low, high = (quantile(stats.histogram, q) for q in (1 - share, share))
        return Range(*(end.clamp(stats.min_val, stats.max_val) for end in (low, high)))
    assert stats.values is not None  # a weight comes with its values
    reach = _row_quantile(stats.values.abs(), share).reshape(stats.min_val.shape)
    return Range(torch.maximum(-reach, stats.min_val), torch.minimum(reach, stats.max_val))


def _row_quantile(rows: Tensor, share: float) -> Tensor:
    """Quantile of every row, the next smaller value; ``torch.quantile`` refuses large rows."""
    place = max(1, int(share * rows.shape[1]))
    return rows.kthvalue(place, dim=1).values


def _distinct(found: Sequence[QParams]) -> list[QParams]:
    kept: list[QParams] = []
    for q in found:
        if not any(_same(q, other) for other in kept):
            kept.append(q)
    return kept


def _same(a: QParams, b: QParams) -> bool:
    return torch.equal(a.scale, b.scale) and torch.equal(a.zero_point, b.zero_point)
