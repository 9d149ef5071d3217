# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Where data lie and how they are laid out, written as ``kind:path``, several with `` + ``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from qkit.data.files import is_file, is_folder
from qkit.errors import DataError, choices, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence


class Kind(StrEnum):
    """Layout of a dataset.

    CLASSES: a folder with one folder of images a class.
    CAPTIONS: a CSV file with the columns ``image`` and ``caption``.
    IMAGES: a folder of images and nothing else known about them.
    DEMO: a part of the scenes that qkit draws itself; its path is the part's name.
    """

    CLASSES = "classes"
    CAPTIONS = "captions"
    IMAGES = "images"
    DEMO = "demo"


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset that is not opened yet."""

    kind: Kind
    path: Path

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.path}"


def split_sources(text: str) -> tuple[str, ...]:
    """The sources that ``text`` names: ``captions:a.csv + classes:b`` are two.

    Raises:
        DataError: one is named twice.
    """
    found = tuple(re.split(rf" \+ (?=(?:{'|'.join(Kind)}):)", text))
    for source in found:
        if found.count(source) > 1:
            message = f"data source {source!r} is named twice. Name each once."
            raise DataError(message)
    return found


def join_sources(sources: Sequence[str]) -> str:
    """One text that names all ``sources``."""
    return " + ".join(sources)


def parse_source(text: str) -> Source:
    """Read a source from ``kind:path``, split at the first colon.

    Raises:
        DataError: the kind is missing or unknown, or the path is missing, does not exist or is a
            folder where the kind needs a file (or the other way round).
    """
    name, colon, path = text.partition(":")
    known = [kind.value for kind in Kind]
    hint = f"{nearest(name, known)} Write kind:path, with one of the kinds {choices(known)}."
    if not colon:
        message = f"data source {text!r} names no kind.{hint}"
        raise DataError(message)
    if name not in known:
        message = f"unknown kind {name!r} in data source {text!r}.{hint}"
        raise DataError(message)
    if not path:
        message = f"data source {text!r} names no path. Write {name}:path."
        raise DataError(message)
    source = Source(Kind(name), Path(path))
    if source.kind is not Kind.DEMO:
        _check_path(source)
    return source


def _check_path(source: Source) -> None:
    path, file, folder = str(source.path), is_file(source.path), is_folder(source.path)
    if not file and not folder:
        message = f"data path {path!r} does not exist or cannot be reached. Check its spelling."
        raise DataError(message)
    if source.kind is Kind.CAPTIONS and folder:
        message = f"{path!r} is a folder, but captions needs a CSV file. Name the file in it."
        raise DataError(message)
    if source.kind is not Kind.CAPTIONS and file:
        message = f"{path!r} is a file, but {source.kind.value} needs a folder. Name its folder."
        raise DataError(message)
