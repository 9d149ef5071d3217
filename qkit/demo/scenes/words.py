# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The words of the scenes: what things can be, and which combinations are never trained on."""

from __future__ import annotations

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (210, 35, 40),
    "orange": (240, 130, 25),
    "yellow": (240, 215, 50),
    "green": (50, 150, 60),
    "blue": (40, 85, 205),
    "purple": (125, 55, 165),
    "pink": (245, 140, 185),
    "brown": (115, 70, 35),
    "white": (240, 240, 240),
    "black": (25, 25, 30),
    "grey": (125, 125, 125),
    "turquoise": (60, 205, 200),
}
SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "cross",
    "heart",
    "ring",
    "arrow",
)
TEXTURES = ("plain", "striped", "spotted", "checked")

Combination = tuple[str, str]
"""Colour and shape: the class of a thing."""

COMBINATIONS: tuple[Combination, ...] = tuple((c, s) for c in COLOURS for s in SHAPES)

# one combination of every colour; every shape once or twice
HELD_OUT: tuple[Combination, ...] = tuple(
    (colour, SHAPES[(3 * i + 1) % len(SHAPES)]) for i, colour in enumerate(COLOURS)
)
TRAINED: tuple[Combination, ...] = tuple(c for c in COMBINATIONS if c not in HELD_OUT)


def class_name(combination: Combination) -> str:
    """Name of a class, such as "red circle"."""
    return " ".join(combination)
