# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The scenes that qkit draws itself, as a dataset: nothing is stored, pictures are drawn on use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qkit.data.sample import Dataset, Sample
from qkit.demo.scenes.parts import CLASS_NAMES, LABELS, SIZES, Item, Part, item
from qkit.errors import DataError, choices, nearest

if TYPE_CHECKING:
    from qkit.data.source import Source


def read_demo(source: Source) -> Dataset:
    """List the samples of a part of the demo data.

    Raises:
        DataError: there is no such part, or it has no end.
    """
    part = _part(str(source.path))
    samples = tuple(_sample(item(part, index)) for index in range(SIZES[part]))
    return Dataset(source, samples, CLASS_NAMES if part in LABELS else ())


def _part(name: str) -> Part:
    known = [part.value for part in SIZES]
    if name not in known:
        message = (
            f"the demo data have no part {name!r}.{nearest(name, known)} "
            f"Use demo:PART with one of {choices(known)}."
        )
        raise DataError(message)
    return Part(name)


def _sample(shown: Item) -> Sample:
    return Sample(shown, () if shown.caption is None else (shown.caption,), shown.label)
