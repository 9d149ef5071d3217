# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Observers collect: torch.ao's, read back as ``TensorStats`` that can be merged.

One pass serves every calibrator: a histogram carries what percentile and MSE need, and its ends
are the exact minimum and maximum.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.ao.quantization.observer import HistogramObserver, PerChannelMinMaxObserver

from qkit.errors import CalibrationError
from qkit.spec import Granularity, Histogram, QuantSpec, TensorStats

BINS = 2048
CHANNEL_BINS = 2048

Observer = HistogramObserver | PerChannelMinMaxObserver
Row = np.ndarray[tuple[int], np.dtype[np.float64]]


class ChannelHistogramObserver(PerChannelMinMaxObserver):
    """torch.ao's per-channel range plus one histogram a channel, which torch.ao does not have.

    A channel's bins lie between -R and R, where R is a power of two that doubles when the data
    outgrow it; doubling merges neighbouring bins, so no count is ever spread by interpolation.
    """

    counts: Tensor
    radius: Tensor

    def __init__(self, axis: int, bins: int = CHANNEL_BINS) -> None:
        super().__init__(ch_axis=axis, dtype=torch.quint8, qscheme=torch.per_channel_affine)
        self.bins = bins
        self.register_buffer("counts", torch.empty(0))
        self.register_buffer("radius", torch.empty(0))

    def forward(self, x: Tensor) -> Tensor:
        """Take in one batch; the channel axis is the one given at construction."""
        super().forward(x)  # type: ignore[no-untyped-call]
        rows = x.detach().transpose(0, self.ch_axis).flatten(1)
        self._grow(rows.abs().amax(dim=1))
        width = 2 * self.radius / self.bins
        # widths are powers of two, so this division is exact and zero is always a bin's edge
        index = torch.floor(rows / width[:, None]).long() + self.bins // 2
        index.clamp_(0, self.bins - 1)
        offset = torch.arange(len(rows), device=rows.device)[:, None] * self.bins
        seen = torch.bincount((index + offset).flatten(), minlength=len(rows) * self.bins)
        self.counts += seen.view(len(rows), self.bins)
        return x

    def _grow(self, absmax: Tensor) -> None:
        needed = torch.exp2(torch.ceil(torch.log2(absmax.clamp(min=2.0**-40))))
        if self.radius.numel() == 0:
            self.radius = needed
            self.counts = absmax.new_zeros(len(absmax), self.bins)
        while bool((grows := self.radius < needed).any()):
            halves = self.counts[grows].view(-1, self.bins // 2, 2).sum(-1)
            quarter = self.bins // 4
            self.counts[grows] = torch.nn.functional.pad(halves, (quarter, quarter))
            self.radius[grows] *= 2


def make_observer(spec: QuantSpec, axis: int) -> Observer:
    """Make the observer for an activation of which ``axis`` is the channel axis.

    Per-token scales are taken at run time; their tensor is still observed as a whole, for reports.
    """
    if spec.granularity is Granularity.CHANNEL:
        return ChannelHistogramObserver(axis)
    return HistogramObserver(bins=BINS, dtype=torch.quint8, qscheme=torch.per_tensor_affine)


def read_stats(observer: Observer) -> TensorStats:
    """Copy out what ``observer`` has seen so far.

    Raises:
        CalibrationError: it has seen nothing.
    """
    low, high = observer.min_val.clone(), observer.max_val.clone()
    if low.numel() == 0 or bool(torch.isinf(low).any()):
        message = "an observer was read before it saw any data. Run the calibration data first."
        raise CalibrationError(message)
    if isinstance(observer, ChannelHistogramObserver):
        histogram = Histogram(observer.counts.clone(), -observer.radius, observer.radius.clone())
    elif isinstance(observer, HistogramObserver):
        histogram = Histogram(observer.histogram.clone(), low.clone(), high.clone())
    else:
        return TensorStats(low, high)
    return TensorStats(low, high, histogram)


def weight_stats(weight: Tensor, granularity: Granularity) -> TensorStats:
    """Describe a weight ``(channels, ...)`` by its values and its range, per channel or as one."""
    rows = weight.detach().flatten(1)
    if granularity is Granularity.TENSOR:
        rows = rows.reshape(1, -1)
        return TensorStats(rows.amin(), rows.amax(), values=rows)
    return TensorStats(rows.amin(dim=1), rows.amax(dim=1), values=rows)


def spread(histogram: Histogram, each: int) -> tuple[Tensor, Tensor]:
    """Values that stand for a histogram, ``each`` a bin, evenly spaced, and their weights.

    Both are ``(channels, bins * each)``; a channel's weights add up to 1.
    """
    counts = histogram.counts.reshape(-1, histogram.counts.shape[-1])
    low, high = histogram.low.reshape(-1, 1), histogram.high.reshape(-1, 1)
    places = counts.shape[1] * each
    offsets = (torch.arange(places, device=counts.device) + 0.5) / places
    weights = (counts / counts.sum(-1, keepdim=True)).repeat_interleave(each, dim=1) / each
    return low + (high - low) * offsets, weights


def merge_stats(first: TensorStats, second: TensorStats) -> TensorStats:
    """Combine what two passes or two processes saw of one activation.

    Ranges merge exactly. Histograms are laid on common bins; their total count is kept exactly, a
    bin that straddles two new ones is split in proportion.

    Raises:
        CalibrationError: shapes differ, or one of the two has no histogram.
    """
    if first.histogram is None or second.histogram is None:
        message = "statistics without a histogram cannot be merged. Merge activations, not weights."
        raise CalibrationError(message)
    if first.histogram.counts.shape != second.histogram.counts.shape:
        shapes = f"{tuple(first.histogram.counts.shape)} and {tuple(second.histogram.counts.shape)}"
        message = f"histograms of shapes {shapes} cannot be merged. Use the same recipe for both."
        raise CalibrationError(message)
    low = torch.minimum(first.histogram.low, second.histogram.low)
    high = torch.maximum(first.histogram.high, second.histogram.high)
    counts = _rebin(first.histogram, low, high) + _rebin(second.histogram, low, high)
    return TensorStats(
        torch.minimum(first.min_val, second.min_val),
        torch.maximum(first.max_val, second.max_val),
        Histogram(counts, low, high),
    )


def _rebin(histogram: Histogram, low: Tensor, high: Tensor) -> Tensor:
    """Counts of ``histogram`` on equally many bins between ``low`` and ``high``."""
    rows = histogram.counts.reshape(-1, histogram.counts.shape[-1]).double().cpu().numpy()
    ends = [
        t.reshape(-1).double().cpu().numpy() for t in (histogram.low, histogram.high, low, high)
    ]
    out = np.stack([_rebin_row(row, *(end[i] for end in ends)) for i, row in enumerate(rows)])
    return torch.from_numpy(out).to(histogram.counts).reshape(histogram.counts.shape)


def _rebin_row(row: Row, old_low: float, old_high: float, new_low: float, new_high: float) -> Row:
    if new_low == new_high:
        return row
    edges = np.linspace(new_low, new_high, len(row) + 1)
    if old_low == old_high:  # one value only: interpolation has no slope to follow
        place = np.histogram([old_low], bins=edges)[0]
        return np.asarray(row.sum() * place, dtype=np.float64)
    cumulative = np.concatenate([[0.0], np.cumsum(row)])
    return np.diff(np.interp(edges, np.linspace(old_low, old_high, len(row) + 1), cumulative))
