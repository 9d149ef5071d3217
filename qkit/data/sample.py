# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a dataset is made of. No pixels: images are decoded or drawn while they are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from qkit.data.source import Source

Task = Literal["classification", "retrieval", "images"]
"""What a dataset can measure; ``images`` has no ground truth."""


class Drawn(Protocol):
    """An image that is no file but is drawn, the same every time."""

    @property
    def name(self) -> str:
        """What to call it."""

    def render(self) -> Image.Image:
        """Draw it, RGB."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and what is known about it.

    Attributes:
        image: its file, or what draws it.
        texts: its captions, in order of appearance.
        label: index into the class names of its dataset; None where there are no classes.
    """

    image: Path | Drawn
    texts: tuple[str, ...] = ()
    label: int | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """Samples in a fixed order.

    Attributes:
        source: where they come from.
        samples: the samples.
        classnames: readable name of each label; empty where there are no classes.
    """

    source: Source
    samples: tuple[Sample, ...]
    classnames: tuple[str, ...] = ()

    @property
    def task(self) -> Task:
        """What can be measured on it."""
        if self.classnames:
            return "classification"
        return "retrieval" if any(sample.texts for sample in self.samples) else "images"

    def __len__(self) -> int:
        return len(self.samples)
