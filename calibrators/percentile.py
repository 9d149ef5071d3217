# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A quantile of the activations at either end."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from qkit.calibration.protocol import TensorCalibrator
from qkit.errors import QkitWarning
from qkit.spec import Histogram, QuantSpec, Range, TensorStats

SAFE = 99.99


@dataclass(frozen=True, slots=True)
class Percentile(TensorCalibrator):
    """Clips activations beyond a percentile (99.999) at either end; weights keep their range.

    Read off the observed histogram, linearly within a bin. Weights are not clipped: the few largest
    may be the very ones that meet the largest activations.

    Attributes:
        percentile: share of the values kept below the upper end, and above the lower one, in %.
    """

    percentile: float = 99.999

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            message = f"percentile = {self.percentile!r}. Use a number above 50 and up to 100."
            raise ValueError(message)
        if self.percentile < SAFE:
            message = (
                f"percentile {self.percentile:g} cuts off the rare large activations that vision "
                f"transformers live on; below {SAFE} they usually fail. The default is 99.999."
            )
            warnings.warn(message, QkitWarning, stacklevel=2)

    def choose_range(self, stats: TensorStats, spec: QuantSpec) -> Range:
        """Return the two percentiles, or the full range of a weight."""
        if stats.histogram is None:
            return Range(stats.min_val, stats.max_val)
        share = self.percentile / 100
        low, high = (quantile(stats.histogram, q) for q in (1 - share, share))
        return Range(*(end.clamp(stats.min_val, stats.max_val) for end in (low, high)))


def quantile(histogram: Histogram, share: float) -> Tensor:
    """Read the value below which ``share`` of the counts lie, ``()`` or ``(channels,)``."""
    counts = histogram.counts.double()
    cumulative = counts.cumsum(-1)
    target = cumulative[..., -1:] * share
    index = torch.searchsorted(cumulative, target).clamp(max=counts.shape[-1] - 1)
    inside = counts.gather(-1, index)
    below = cumulative.gather(-1, index) - inside
    position = index + ((target - below) / inside.clamp(min=1e-30)).clamp(0, 1)
    width = (histogram.high - histogram.low).double() / counts.shape[-1]
    return (histogram.low.double() + position.squeeze(-1) * width).to(histogram.low.dtype)
