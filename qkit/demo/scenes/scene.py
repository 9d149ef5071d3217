# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a scene is, and how one is drawn by lot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qkit.demo.scenes.words import COLOURS, TEXTURES, Combination

SIDE = 64
"""Width and height of a picture, pixels."""

SMALL, LARGE = 14.0, 18.0  # radii, pixels: below is "small", above is "large"


@dataclass(frozen=True, slots=True)
class Thing:
    """A coloured shape.

    Attributes:
        combination: its colour and shape.
        texture: one of TEXTURES.
        centre: x and y, pixels from the top left corner.
        radius: of the circle around the shape, pixels.
        angle: turned clockwise by this much, radians.
    """

    combination: Combination
    texture: str
    centre: tuple[float, float]
    radius: float
    angle: float


@dataclass(frozen=True, slots=True)
class Light:
    """How a scene is lit and taken.

    Attributes:
        gain: factor on everything.
        cast: factor on red, green and blue.
        slope: change of brightness across the picture, to the right and downwards.
        noise: standard deviation of the pixel noise, of 255.
        grain: seed of the noise.
    """

    gain: float
    cast: tuple[float, float, float]
    slope: tuple[float, float]
    noise: float
    grain: int


@dataclass(frozen=True, slots=True)
class Conditions:
    """How hard scenes are to see: ranges that their properties are drawn from.

    Attributes:
        radius: of single things, pixels.
        clutter: of the background.
        gain: of the light.
        noise: of the picture.
    """

    radius: tuple[float, float] = (11, 22)
    clutter: tuple[float, float] = (0, 0.2)
    gain: tuple[float, float] = (0.7, 1.15)
    noise: tuple[float, float] = (2, 14)


DAYLIGHT = Conditions()
DUSK = Conditions(radius=(9, 20), clutter=(0, 0.25), gain=(0.55, 1.05), noise=(4, 20))


@dataclass(frozen=True, slots=True)
class Scene:
    """One or two things on a background; with two, the first is left of or above the second."""

    things: tuple[Thing, ...]
    background: str
    clutter: float
    light: Light

    @property
    def beside(self) -> bool:
        """Whether two things lie side by side instead of one above the other."""
        first, second = self.things
        (x1, y1), (x2, y2) = first.centre, second.centre
        return abs(x2 - x1) > abs(y2 - y1)


def draw_scene(
    rng: np.random.Generator,
    combinations: Sequence[Combination],
    conditions: Conditions = DAYLIGHT,
    *,
    pair: bool = False,
) -> Scene:
    """Draw a scene with one thing, or with two, of the given combinations of colour and shape."""
    things = _pair(rng, combinations) if pair else (_single(rng, combinations, conditions),)
    taken = {thing.combination[0] for thing in things}
    background = str(rng.choice([name for name in COLOURS if name not in taken]))
    clutter = float(rng.uniform(*conditions.clutter))
    return Scene(things, background, clutter, _light(rng, conditions))


def _pair(rng: np.random.Generator, combinations: Sequence[Combination]) -> tuple[Thing, Thing]:
    """Two things apart from each other, along a random axis."""
    across = bool(rng.random() < 0.5)
    middle = rng.uniform(20, SIDE - 20)
    things = []
    for along in (rng.uniform(12, 22), rng.uniform(42, 52)):
        aside = middle + rng.uniform(-8, 8)
        centre = (along, aside) if across else (aside, along)
        things.append(_thing(rng, _pick(rng, combinations), centre, rng.uniform(10, 13)))
    return things[0], things[1]


def _single(
    rng: np.random.Generator, combinations: Sequence[Combination], conditions: Conditions
) -> Thing:
    combination = _pick(rng, combinations)
    radius = rng.uniform(*conditions.radius)
    margin = 0.8 * radius
    x, y = rng.uniform(margin, SIDE - margin, size=2)
    return _thing(rng, combination, (x, y), radius)


def _thing(
    rng: np.random.Generator,
    combination: Combination,
    centre: tuple[float, float],
    radius: float,
) -> Thing:
    x, y = centre
    angle = float(rng.uniform(-0.25, 0.25))
    texture = str(rng.choice(TEXTURES))
    return Thing(combination, texture, (float(x), float(y)), float(radius), angle)


def _pick(rng: np.random.Generator, combinations: Sequence[Combination]) -> Combination:
    return combinations[int(rng.integers(len(combinations)))]


def _light(rng: np.random.Generator, conditions: Conditions) -> Light:
    red, green, blue = (float(v) for v in rng.uniform(0.9, 1.1, size=3))
    right, down = (float(v) for v in rng.uniform(-0.2, 0.2, size=2))
    return Light(
        gain=float(rng.uniform(*conditions.gain)),
        cast=(red, green, blue),
        slope=(right, down),
        noise=float(rng.uniform(*conditions.noise)),
        grain=int(rng.integers(2**31)),
    )
