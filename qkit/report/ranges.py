# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What was seen of each operand, and the grid that the calibrator chose for it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from qkit.graph.layers import Layer
from qkit.grids.codebook import outermost
from qkit.nn.tensor_quantizer import TensorQuantizer
from qkit.report.layer import BINS, HistogramReport, TensorReport
from qkit.spec import PointId, TensorStats


def tensor_reports(layer: Layer, seen: Mapping[PointId, TensorStats]) -> tuple[TensorReport, ...]:
    """Describe the quantized operands of a layer, its weight first.

    Args:
        layer: a layer of a calibrated model.
        seen: what calibration saw at its points.
    """
    weight = layer.weight_quantizer
    points = [] if weight is None else [weight]
    return tuple(
        _tensor_report(point, seen[point.point]) for point in (*points, *layer.input_quantizers)
    )


def _tensor_report(point: TensorQuantizer, stats: TensorStats) -> TensorReport:
    spec = point.spec
    low = high = step = span = None
    if not spec.uniform and not spec.dynamic:
        lows, highs = (end.double().cpu() for end in outermost(point.qparams, spec))
        low, high = float(lows.min()), float(highs.max())
        span = _span(stats, lows, highs)
    elif not spec.dynamic:
        scale, zero_point = (t.double().cpu() for t in point.qparams)
        lows, highs = (spec.quant_min - zero_point) * scale, (spec.quant_max - zero_point) * scale
        low, high, step = float(lows.min()), float(highs.max()), float(scale.median())
        span = _span(stats, lows - scale / 2, highs + scale / 2)
    return TensorReport(
        role=point.point.role,
        bits=spec.bits,
        granularity=spec.granularity.value,
        symmetric=spec.symmetric,
        values=_values(stats),
        grid_low=low,
        grid_high=high,
        step=step,
        span=span,
        grid=spec.grid.value,
        coordinates="" if point.transform is None else point.transform.describe(spec),
    )


def _span(stats: TensorStats, low: Tensor, high: Tensor) -> float:
    """Share of the range seen that lies between ``low`` and ``high``, median over channels."""
    least = stats.min_val.double().cpu().clamp(max=0)
    most = stats.max_val.double().cpu().clamp(min=0)
    covered = torch.minimum(high, most) - torch.maximum(low, least)
    alive = most > least
    if not bool(alive.any()):
        return 1.0
    return float((covered[alive] / (most - least)[alive]).clamp(0, 1).median())


def _values(stats: TensorStats) -> HistogramReport:
    low, high = float(stats.min_val.min()), float(stats.max_val.max())
    if stats.values is not None:
        return histogram(stats.values, low, high)
    assert stats.histogram is not None  # an activation always has one
    counts = stats.histogram.counts.double().cpu().reshape(-1, stats.histogram.counts.shape[-1])
    ends = [t.double().cpu().reshape(-1, 1) for t in (stats.histogram.low, stats.histogram.high)]
    middles = (torch.arange(counts.shape[1], dtype=torch.float64) + 0.5) / counts.shape[1]
    places = (ends[0] + (ends[1] - ends[0]) * middles).clamp(low, high)
    binned, _ = np.histogram(places.numpy(), BINS, (low, high), weights=counts.numpy())
    return HistogramReport(low, high, tuple(int(count) for count in binned.round()))


def histogram(values: Tensor, low: float, high: float) -> HistogramReport:
    """Count ``values`` into equal bins between ``low`` and ``high``."""
    parts = values.detach().float().flatten().split(1 << 24)  # float32 counts no further
    counts = torch.stack([torch.histc(part, BINS, low, high).long() for part in parts]).sum(dim=0)
    return HistogramReport(low, high, tuple(counts.tolist()))
