# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Opening a dataset whatever its kind, and drawing a random part of one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from qkit.data.captions import read_captions
from qkit.data.classes import read_classes
from qkit.data.demo import read_demo
from qkit.data.images import read_images
from qkit.data.sample import Dataset as Dataset
from qkit.data.sample import Sample as Sample
from qkit.data.source import Kind, Source
from qkit.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

READERS: dict[Kind, Callable[[Source], Dataset]] = {
    Kind.CLASSES: read_classes,
    Kind.CAPTIONS: read_captions,
    Kind.IMAGES: read_images,
    Kind.DEMO: read_demo,
}


def open_dataset(source: Source) -> Dataset:
    """List the samples of a source; no image is decoded.

    Raises:
        DataError: the files are missing, unreadable or not laid out as the kind demands.
    """
    return READERS[source.kind](source)


def in_turns(lists: Sequence[Sequence[T]]) -> list[T]:
    """All items in one list: the first of each, then the second, as long as they last."""
    placed = [(index, item) for items in lists for index, item in enumerate(items)]
    return [item for _, item in sorted(placed, key=lambda pair: pair[0])]


def join_datasets(datasets: Sequence[Dataset]) -> Dataset:
    """Datasets as one, in turns; classes keep their names, and labels are counted on."""
    parts: list[list[Sample]] = []
    names: list[str] = []
    for dataset in datasets:
        first = len(names)
        names += dataset.classnames
        parts.append([_moved(sample, first) for sample in dataset.samples])
    return Dataset(datasets[0].source, tuple(in_turns(parts)), tuple(names))


def _moved(sample: Sample, first: int) -> Sample:
    return sample if sample.label is None else replace(sample, label=sample.label + first)


def draw(dataset: Dataset, count: int, seed: int) -> Dataset:
    """Draw ``count`` random samples, each at most once; all of them where there are fewer.

    The same seed gives the same samples in the same order, and a smaller draw is the beginning of
    a larger one.

    Raises:
        DataError: ``count`` is below 1 or ``seed`` below 0.
    """
    if count < 1:
        message = f"cannot draw {count} samples. Ask for 1 or more."
        raise DataError(message)
    if seed < 0:
        message = f"cannot draw with seed {seed}. Use 0 or more."
        raise DataError(message)
    chosen = np.random.default_rng(seed).permutation(len(dataset))[:count]
    return replace(dataset, samples=tuple(dataset.samples[index] for index in chosen))
