# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The plug-in contract: a calibrator turns statistics into scales."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from qkit.calibration.session import CalibrationSession
from qkit.numerics import qparams_from_range
from qkit.progress import Advance
from qkit.spec import PointId, QParams, QuantSpec, Range, TensorStats


@runtime_checkable
class Calibrator(Protocol):
    """Chooses scale and zero point for every point of a session.

    Implement it as a frozen dataclass: its fields are its options, as recipes and flags name them,
    and the first line of its docstring is what ``qkit calibrators`` prints.
    """

    def calibrate(self, session: CalibrationSession, advance: Advance) -> Mapping[PointId, QParams]:
        """Return qparams for exactly ``session.points``, calling ``advance(1)`` after each."""
        ...


class TensorCalibrator(ABC):
    """Base of calibrators that look at one tensor at a time: they only choose a range."""

    @abstractmethod
    def choose_range(self, stats: TensorStats, spec: QuantSpec) -> Range:
        """Choose where to clip.

        Args:
            stats: what was seen; ``values`` for a weight, ``histogram`` for an activation.
            spec: how the tensor will be quantized.

        Returns:
            a range of the shape of ``stats.min_val``: ``()`` or ``(channels,)``.
        """

    def calibrate(self, session: CalibrationSession, advance: Advance) -> Mapping[PointId, QParams]:
        """Choose a range for every point of ``session``."""
        chosen = {}
        for point, spec in session.points.items():
            range_ = self.choose_range(session.stats(point), spec)
            chosen[point] = qparams_from_range(range_, spec)
            advance(1)
        return chosen
