# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a calibrator may look at: the points of a model and what was seen there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from qkit.calibration.bench import Bench
from qkit.errors import CalibrationError
from qkit.graph.layers import Layer, list_points
from qkit.grids.shapes import holds
from qkit.nn.layer import QuantLayer
from qkit.observers import merge_stats, weight_stats
from qkit.spec import PointId, QuantSpec, TensorStats


@dataclass(frozen=True, slots=True)
class CalibrationSession:
    """Points that need a scale, and their statistics; one serves any number of calibrators.

    Attributes:
        points: every point whose scale calibration chooses (per-token ones choose their own).
        seen: their statistics, and those of the per-token points for whoever reports on them.
        bench: runs parts of the model again on a few samples; None where there are statistics only.
    """

    points: Mapping[PointId, QuantSpec]
    seen: Mapping[PointId, TensorStats]
    bench: Bench | None = None

    def stats(self, point: PointId) -> TensorStats:
        """What was observed at ``point``; a weight comes with its values.

        Raises:
            CalibrationError: there is no such point.
        """
        if point not in self.seen:
            message = f"no statistics for {point}. Ask only for points of the session."
            raise CalibrationError(message)
        return self.seen[point]

    def merge(self, other: CalibrationSession) -> CalibrationSession:
        """Combine with what another pass or process saw of the same model.

        Raises:
            CalibrationError: the two sessions have different points.
        """
        if self.points != other.points:
            message = "sessions of different points cannot be merged. Use one model and recipe."
            raise CalibrationError(message)
        merged = {
            point: stats if stats.values is not None else merge_stats(stats, other.seen[point])
            for point, stats in self.seen.items()
        }
        return CalibrationSession(self.points, merged, self.bench)


def open_session(
    model: nn.Module, layers: tuple[Layer, ...], bench: Bench | None = None
) -> CalibrationSession:
    """Read the statistics of an observed model.

    Raises:
        CalibrationError: a weight holds NaN or infinite values, an activation never changed or
            holds values that its grid is not made for, or a point saw no data.
    """
    points: dict[PointId, QuantSpec] = {}
    seen: dict[PointId, TensorStats] = {}
    weights = {
        layer.weight_quantizer.point: layer.weight_rows
        for layer in layers
        if isinstance(layer.module, QuantLayer) and layer.weight_quantizer is not None
    }
    for quantizer in list_points(model):
        point = quantizer.point
        if quantizer.spec.dynamic:
            seen[point] = quantizer.stats()
            continue
        points[point] = quantizer.spec
        if point in weights:
            seen[point] = weight_stats(weights[point], quantizer.spec.granularity)
            _check_finite(point, seen[point])
        else:
            seen[point] = quantizer.stats()
            _check_varies(point, seen[point])
            _check_reach(point, quantizer.spec, seen[point])
    return CalibrationSession(points, seen, bench)


def _check_finite(point: PointId, stats: TensorStats) -> None:
    bad = ~(torch.isfinite(stats.min_val) & torch.isfinite(stats.max_val))
    if bool(bad.any()):
        message = (
            f"{point} holds NaN or infinite values in {int(bad.sum())} of {bad.numel()} channels. "
            "Check the checkpoint, or leave this layer in float with an ignore rule."
        )
        raise CalibrationError(message)


def _check_varies(point: PointId, stats: TensorStats) -> None:
    if bool((stats.min_val == stats.max_val).all()):
        message = (
            f"{point} is constant: every value is {float(stats.max_val.max()):g}, a range of zero "
            "width. Use more varied calibration data, or leave this layer in float."
        )
        raise CalibrationError(message)


def _check_reach(point: PointId, spec: QuantSpec, stats: TensorStats) -> None:
    if not spec.uniform and not holds(spec.grid, float(stats.min_val)):
        message = (
            f"{point} reaches {float(stats.min_val):.3g}, far below all that grid = '{spec.grid}' "
            "holds. Use that grid after a GELU only, by a rule of its own, or grid = 'uniform'."
        )
        raise CalibrationError(message)
