# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a dataset is made of. Only paths and words: images are decoded while they are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qkit.data.source import Kind, Source

if TYPE_CHECKING:
    from pathlib import Path

Task = Literal["classification", "retrieval", "images"]
"""What a dataset can measure; ``images`` has no ground truth."""

TASKS: dict[Kind, Task] = {
    Kind.CLASSES: "classification",
    Kind.CAPTIONS: "retrieval",
    Kind.IMAGES: "images",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and what is known about it.

    Attributes:
        image: its file.
        texts: its captions, in order of appearance.
        label: index into the class names of its dataset; None where there are no classes.
    """

    image: Path
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
        return TASKS[self.source.kind]

    def __len__(self) -> int:
        return len(self.samples)
