# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The training samples: so many images of each class, or all captioned images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from qkit.data import Dataset
from qkit.errors import DataError

SHOTS = 16
NAMED = 8  # classes that an error lists


def draw_training(dataset: Dataset, shots: int | None, seed: int) -> Dataset:
    """Draw ``shots`` images of each class (16 by default), or take all captioned images.

    A smaller draw of a class is the beginning of a larger one. A class of which the data show
    nothing at all (possible in the demo only) stays a choice among names.

    Raises:
        DataError: a class has fewer images, the images have neither classes nor captions, or shots
            are asked for without classes.
    """
    if dataset.task == "images":
        message = (
            f"{dataset.source} has neither classes nor captions to learn from. Use classes:DIR."
        )
        raise DataError(message)
    if dataset.task == "retrieval":
        if shots is not None:
            message = (
                f"--shots {shots} counts images of a class, but {dataset.source} has captions. "
                "Drop --shots: all pairs are used."
            )
            raise DataError(message)
        return dataset
    wanted = SHOTS if shots is None else shots
    if wanted < 1:
        message = f"--shots {wanted} is not possible. Use 1 or more."
        raise DataError(message)
    return _draw_classes(dataset, wanted, seed)


def _draw_classes(dataset: Dataset, shots: int, seed: int) -> Dataset:
    places: dict[int, list[int]] = {}
    for index, sample in enumerate(dataset.samples):
        if sample.label is not None:
            places.setdefault(sample.label, []).append(index)
    few = {k: len(found) for k, found in sorted(places.items()) if len(found) < shots}
    if few:
        raise DataError(_too_few(dataset, few, shots))
    drawn = [
        dataset.samples[index]
        for label, found in sorted(places.items())
        for index in np.random.default_rng([seed, label]).permutation(found)[:shots]
    ]
    return replace(dataset, samples=tuple(drawn))


def _too_few(dataset: Dataset, few: Mapping[int, int], shots: int) -> str:
    shown = [f"{dataset.classnames[label]} ({count})" for label, count in few.items()]
    more = f" and {len(shown) - NAMED} more" if len(shown) > NAMED else ""
    what = "class has" if len(few) == 1 else "classes have"
    return (
        f"{len(few)} {what} fewer images than --shots {shots}: {', '.join(shown[:NAMED])}{more}. "
        f"Use --shots {min(few.values())}, or add images."
    )
