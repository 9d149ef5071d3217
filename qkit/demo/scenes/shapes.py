# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Outlines of the shapes, as polygons in a circle of radius 1 around the origin, y downwards."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""Corners, ``(N, 2)``."""

ROUND = 40  # corners that make a circle of this size look round


@dataclass(frozen=True, slots=True)
class Outline:
    """A filled polygon, with a hole where there is one."""

    outer: Points
    hole: Points | None = None


def outline(shape: str) -> Outline:
    """Outline of a shape of the scenes.

    Raises:
        KeyError: there is no such shape.
    """
    return _OUTLINES[shape]()


def _regular(corners: int, turn: float = 0.0, radius: float = 1.0) -> Points:
    angles = np.arange(corners) * 2 * math.pi / corners - math.pi / 2 + turn
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star() -> Points:
    points = _regular(10)
    points[1::2] *= 0.42
    return points


def _cross() -> Points:
    a, b = 0.32, 0.94
    corner = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a)]
    return np.array(corner + [(-x, -y) for x, y in corner])


def _heart() -> Points:
    t = np.linspace(0, 2 * math.pi, ROUND, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y], axis=1) / 17


def _arrow() -> Points:
    half = [(0.0, -1.0), (0.8, -0.15), (0.28, -0.15), (0.28, 0.95)]
    return np.array(half + [(-x, y) for x, y in reversed(half[1:])])


_OUTLINES: dict[str, Callable[[], Outline]] = {
    "circle": lambda: Outline(_regular(ROUND, radius=0.9)),
    "square": lambda: Outline(_regular(4, turn=math.pi / 4)),
    "triangle": lambda: Outline(_regular(3)),
    "star": lambda: Outline(_star()),
    "cross": lambda: Outline(_cross()),
    "heart": lambda: Outline(_heart()),
    "ring": lambda: Outline(_regular(ROUND, radius=0.95), _regular(ROUND, radius=0.55)),
    "arrow": lambda: Outline(_arrow()),
}
