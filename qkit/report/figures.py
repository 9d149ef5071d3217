# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Which figures an evaluation has, by dotted names such as "image_to_text.r1"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIGURES = {
    "classification": ("top1", "top5"),
    "retrieval": (
        "image_to_text.r1",
        "image_to_text.r5",
        "image_to_text.r10",
        "text_to_image.r1",
        "text_to_image.r5",
        "text_to_image.r10",
    ),
}
"""All figures of a task, the headline first."""


def read_figure(figures: Mapping[str, Any], path: str) -> float:
    """Return a figure by its dotted name."""
    value: Any = figures
    for key in path.split("."):
        value = value[key]
    return float(value)


def figure_name(path: str) -> str:
    """A figure's name in words: "image_to_text.r1" becomes "image to text R@1"."""
    words = path.replace(".r", " R@").replace("_", " ").replace(".", " ")
    return words.replace("top1", "top-1").replace("top5", "top-5")
