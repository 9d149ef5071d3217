# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The range with the least squared rounding and clipping error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qkit.calibration.protocol import TensorCalibrator
from qkit.grids.codebook import grid_of
from qkit.grids.fit import SUBSAMPLES, fit, sample_of
from qkit.numerics import qparams_from_range
from qkit.observers import spread
from qkit.spec import Granularity, Histogram, QuantSpec, Range, TensorStats

Error = Callable[[Tensor, Tensor], Tensor]
"""Mean squared error ``(K, channels)`` of K candidate ranges, each end ``(K, channels)``."""

CHUNK = 1 << 17  # elements that stay in a core's cache while all candidates pass over them
MEMORY = 1 << 22


@dataclass(frozen=True, slots=True)
class Mse(TensorCalibrator):
    """Least squared error between tensor and integers, weights per channel, both ends searched.

    Both ends shrink together on a coarse grid, then on a fine one around the best; for affine
    activations each end then moves alone. The full range is always a candidate, so a weight's error
    is never above min-max's; an activation's is so on its histogram, whose bins are taken as
    uniformly filled.

    Attributes:
        steps: candidates of the coarse grid, spaced evenly on a logarithmic scale.
        least_weight: smallest share of a weight's full range that is tried.
        least_activation: smallest share of an activation's; massive activations need little.
    """

    steps: int = 16
    least_weight: float = 0.2
    least_activation: float = 0.01

    def __post_init__(self) -> None:
        least = (self.least_weight, self.least_activation)
        if self.steps < 2 or not all(0 < share < 1 for share in least):
            message = f"steps = {self.steps}, least_* = {least}: use steps >= 2, 0 < least_* < 1."
            raise ValueError(message)

    def choose_range(self, stats: TensorStats, spec: QuantSpec) -> Range:
        """Return the best range found, of the shape of ``stats.min_val``."""
        # zero is always on the grid, so an end beyond it says nothing
        low, high = stats.min_val.reshape(-1).clamp(max=0), stats.max_val.reshape(-1).clamp(min=0)
        if stats.values is not None:
            low, high = self._search_weight(stats.values, low, high, spec)
        elif stats.histogram is not None:
            error = histogram_error(stats.histogram, spec)
            low, high = self._shrink(low, high, error, self.least_activation)
            if spec.uniform and not spec.symmetric:
                low, high = self._move_ends(low, high, stats, error)
        shape = stats.min_val.shape
        return Range(low.reshape(shape), high.reshape(shape))

    def _search_weight(
        self, rows: Tensor, low: Tensor, high: Tensor, spec: QuantSpec
    ) -> tuple[Tensor, Tensor]:
        """Search a few channels at a time, so that their values stay in cache."""
        count = max(1, CHUNK // rows.shape[1])
        parts = [
            self._shrink(
                low[i : i + count],
                high[i : i + count],
                values_error(part, spec),
                self.least_weight,
            )
            for i, part in zip(range(0, len(rows), count), rows.split(count), strict=True)
        ]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _shrink(
        self, low: Tensor, high: Tensor, error: Error, least: float
    ) -> tuple[Tensor, Tensor]:
        """Scale both ends by one factor a channel, at least by ``least``."""
        ratio = least ** (1 / (self.steps - 1))
        coarse = ratio ** torch.arange(self.steps, device=low.device, dtype=low.dtype)
        factor = _best(coarse[:, None].expand(-1, len(low)), low, high, error)
        around = ratio ** torch.tensor([0.0, -0.75, -0.5, -0.25, 0.25, 0.5, 0.75])
        fine = (factor * around.to(low.device)[:, None]).clamp(max=1.0)
        factor = _best(fine, low, high, error)
        return low * factor, high * factor

    def _move_ends(
        self, low: Tensor, high: Tensor, stats: TensorStats, error: Error
    ) -> tuple[Tensor, Tensor]:
        """Move one end at a time, never beyond the data; where it is is the first candidate."""
        steps = torch.tensor([1.0, 0.5, 0.7, 0.85, 0.93, 0.97, 1.04, 1.1, 1.25, 1.5, 2.0])
        factors = steps.to(low.device)[:, None]
        least = stats.min_val.reshape(-1).clamp(max=0)
        most = stats.max_val.reshape(-1).clamp(min=0)
        for _ in range(2):
            lows = torch.maximum(low * factors, least)
            low = _pick(lows, error(lows, high.expand_as(lows)))
            highs = torch.minimum(high * factors, most)
            high = _pick(highs, error(low.expand_as(highs), highs))
        return low, high


def _best(factors: Tensor, low: Tensor, high: Tensor, error: Error) -> Tensor:
    """The factor ``(channels,)`` of ``(K, channels)`` with the least error; ties keep the first."""
    return _pick(factors, error(low * factors, high * factors))


def _pick(candidates: Tensor, errors: Tensor) -> Tensor:
    return candidates.gather(0, errors.argmin(dim=0, keepdim=True)).squeeze(0)


def values_error(rows: Tensor, spec: QuantSpec) -> Error:
    """Exact error on the values ``(channels, elements)`` themselves."""
    weights = torch.full((1, 1), 1.0 / rows.shape[1], device=rows.device)
    return _error_on(rows, weights, spec)


def histogram_error(histogram: Histogram, spec: QuantSpec) -> Error:
    """Expected error on a histogram, each bin sampled at a few evenly spaced values."""
    if spec.uniform:
        return _error_on(*spread(histogram, SUBSAMPLES), spec)
    sample = sample_of(histogram)

    def error(_: Tensor, high: Tensor) -> Tensor:  # each end (K, 1), its grid the fittest
        return torch.stack([fit(end, spec, sample)[1] for end in high.flatten()])[:, None]

    return error


def _error_on(values: Tensor, weights: Tensor, spec: QuantSpec) -> Error:
    """Weighted error over ``values`` ``(channels, elements)``, a few candidates at a time."""

    def error(low: Tensor, high: Tensor) -> Tensor:
        at_once = max(1, MEMORY // values.numel())
        parts = zip(low.split(at_once), high.split(at_once), strict=True)
        return torch.cat([one(*part) for part in parts])

    def one(low: Tensor, high: Tensor) -> Tensor:
        q = qparams_from_range(Range(low.reshape(-1), high.reshape(-1)), flat)
        grid = grid_of(type(q)(*(t.reshape(*low.shape, 1) for t in q)), spec)
        off = grid.round(values.expand(len(low), -1, -1)).sub_(values)
        return off.square_().mul_(weights).sum(-1)

    flat = QuantSpec(spec.bits, spec.symmetric, Granularity.CHANNEL)
    return error
