# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Captions of a scene, in several phrasings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qkit.demo.scenes.scene import LARGE, SIDE, SMALL, Scene, Thing
from qkit.demo.scenes.words import COLOURS, SHAPES, TEXTURES

SIZE_WORDS = ("small", "large")
PLACES = (
    ("top left", "top", "top right"),
    ("left", "centre", "right"),
    ("bottom left", "bottom", "bottom right"),
)
SINGLE = (
    "a {thing} on a {background} background",
    "a {thing} in the {place} of a {background} picture",
    "there is a {thing} in the {place}, the background is {background}",
    "{thing}, {place}, {background} background",
    "the {place} shows a {thing} on {background}",
)
BESIDE = (
    "a {first} to the left of a {second} on a {background} background",
    "a {second} to the right of a {first} on {background}",
    "on the left a {first}, on the right a {second}, {background} background",
)
ABOVE = (
    "a {first} above a {second} on a {background} background",
    "a {second} below a {first} on {background}",
    "at the top a {first}, at the bottom a {second}, {background} background",
)


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """One caption with everything that can be said of a scene, in a phrasing drawn by lot."""
    names = [describe_thing(thing) for thing in scene.things]
    if len(names) == 1:
        words = {"thing": names[0], "place": place(scene.things[0])}
        form = _pick(rng, SINGLE)
    else:
        words = {"first": names[0], "second": names[1]}
        form = _pick(rng, BESIDE if scene.beside else ABOVE)
    return form.format(background=scene.background, **words)


def describe_thing(thing: Thing) -> str:
    """Size (where it is clear), texture (where there is one), colour and shape."""
    words = [
        _size(thing.radius),
        thing.texture if thing.texture != "plain" else "",
        *thing.combination,
    ]
    return " ".join(word for word in words if word)


def place(thing: Thing) -> str:
    """Where a thing lies, on a grid of three by three."""
    column, row = (min(2, int(3 * value / SIDE)) for value in thing.centre)
    return PLACES[row][column]


def all_words() -> list[str]:
    """Every word and mark that a caption can hold."""
    fixed = " ".join((*SINGLE, *BESIDE, *ABOVE, *sum(PLACES, ()), *SIZE_WORDS))
    forms = [word for word in fixed.replace(",", " , ").split() if not word.startswith("{")]
    return sorted({*forms, *COLOURS, *SHAPES, *TEXTURES})


def _size(radius: float) -> str:
    small, large = SIZE_WORDS
    return small if radius < SMALL else large if radius > LARGE else ""


def _pick(rng: np.random.Generator, forms: Sequence[str]) -> str:
    return forms[int(rng.integers(len(forms)))]
