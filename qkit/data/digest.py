# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A fingerprint of a dataset: the same wherever it lies, another as soon as its content differs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from qkit.data.files import hash_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qkit.data.sample import Dataset, Drawn, Sample


def dataset_digest(dataset: Dataset) -> str:
    """Return the SHA-256, in hex, of the class names and the samples in their order.

    A sample counts with its file name (without folders), its file's bytes (its pixels, if it is
    drawn), its texts and its label.

    Raises:
        DataError: an image file cannot be read.
    """
    digest = hashlib.sha256()
    for piece in _dataset_pieces(dataset):
        # The length in front keeps "ab", "c" apart from "a", "bc".
        digest.update(len(piece).to_bytes(8, "big"))
        digest.update(piece)
    return digest.hexdigest()


def _dataset_pieces(dataset: Dataset) -> Iterator[bytes]:
    yield from _list_pieces(dataset.classnames)
    for sample in dataset.samples:
        yield from _sample_pieces(sample)


def _sample_pieces(sample: Sample) -> Iterator[bytes]:
    yield _encode(sample.image.name)
    yield _content(sample.image)
    yield _encode("" if sample.label is None else str(sample.label))
    yield from _list_pieces(sample.texts)


def _content(image: Path | Drawn) -> bytes:
    if isinstance(image, Path):
        return hash_file(image)
    return hashlib.sha256(image.render().tobytes()).digest()


def _list_pieces(texts: Iterable[str]) -> Iterator[bytes]:
    pieces = [_encode(text) for text in texts]
    yield _encode(str(len(pieces)))
    yield from pieces


def _encode(text: str) -> bytes:
    # File names that are not UTF-8 reach Python with their bytes escaped.
    return text.encode("utf-8", "surrogateescape")
