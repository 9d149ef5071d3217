# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The full range."""

from dataclasses import dataclass

from qkit.calibration.protocol import TensorCalibrator
from qkit.spec import QuantSpec, Range, TensorStats


@dataclass(frozen=True, slots=True)
class MinMax(TensorCalibrator):
    """Full observed range: nothing is clipped, outliers make every step coarse."""

    def choose_range(self, stats: TensorStats, spec: QuantSpec) -> Range:
        """Return the smallest and largest value seen."""
        return Range(stats.min_val, stats.max_val)
