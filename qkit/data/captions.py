# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Captioned images, listed in a CSV file."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qkit.data.files import is_file, read_text
from qkit.data.sample import Dataset, Sample
from qkit.errors import DataError, choices

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from qkit.data.source import Source

COLUMNS = ("image", "caption")


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    image: str
    caption: str


def read_captions(source: Source) -> Dataset:
    """List the images of a CSV file (UTF-8) with their captions.

    The columns ``image`` (path relative to the file's folder) and ``caption`` are read, others are
    ignored. Rows of one image become one sample, placed where the image first appears.

    Raises:
        DataError: the file is unreadable, empty or malformed, or an image does not exist.
    """
    texts: dict[Path, list[str]] = {}
    for row in _read_rows(source.path):
        image = source.path.parent / row.image
        if image not in texts:
            if not is_file(image):
                problem = f"names {str(image)!r}, which does not exist"
                remedy = "Correct the path (it starts at the file's folder) or remove the row."
                raise _bad_line(source.path, row.line, problem, remedy)
            texts[image] = []
        texts[image].append(row.caption)
    if not texts:
        message = f"{str(source.path)!r} lists no captions. Add a row for each."
        raise DataError(message)
    samples = (Sample(image, tuple(captions)) for image, captions in texts.items())
    return Dataset(source, tuple(samples))


def _read_rows(file: Path) -> Iterator[_Row]:
    # Strict, or a quote that is never closed would swallow the rest of the file in silence.
    reader = csv.reader(io.StringIO(read_text(file), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        places = _find_columns(file, header)
        for fields in reader:
            if fields:
                yield _read_row(file, reader.line_num, fields, len(header), places)
    except csv.Error as error:
        remedy = "Close every quote, and double those inside a caption."
        raise _bad_line(file, reader.line_num, f"is malformed: {error}", remedy) from None


def _find_columns(file: Path, header: list[str]) -> tuple[int, int]:
    if not any(header):
        message = (
            f"{str(file)!r} is empty or starts with an empty line. "
            f"Start it with the columns {choices(COLUMNS)}."
        )
        raise DataError(message)
    for name in COLUMNS:
        if name not in header:
            message = (
                f"{str(file)!r} has no column {name!r}; it has {choices(header)}. "
                f"Name the columns {choices(COLUMNS)}."
            )
            raise DataError(message)
    return header.index(COLUMNS[0]), header.index(COLUMNS[1])


def _read_row(
    file: Path, line: int, fields: list[str], width: int, places: tuple[int, int]
) -> _Row:
    if len(fields) != width:
        problem = f"has {len(fields)} fields where the header has {width}"
        raise _bad_line(file, line, problem, "Put quotes around a caption with commas.")
    image, caption = (fields[place].strip() for place in places)
    for name, value in zip(COLUMNS, (image, caption), strict=True):
        if not value:
            raise _bad_line(file, line, f"has an empty {name}", "Fill it in or remove the row.")
    return _Row(line, image, caption)


def _bad_line(file: Path, line: int, problem: str, remedy: str) -> DataError:
    return DataError(f"line {line} of {str(file)!r} {problem}. {remedy}")
