# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Images sorted into one folder a class, with readable class names where a file gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qkit.data.files import find_folders, find_images, is_file, read_text
from qkit.data.sample import Dataset, Sample
from qkit.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from qkit.data.source import Source

NAMES_FILE = "classnames.txt"


def read_classes(source: Source) -> Dataset:
    """List the images of every class; labels follow the order of the folder names.

    ``classnames.txt`` in the folder or one up (lines ``folder TAB name``, UTF-8) gives the names;
    without it a folder's own name is used, underscores turned into spaces.

    Raises:
        DataError: there are no classes, one has no image, or the names file is malformed or does
            not list a folder.
    """
    folders = find_folders(source.path)
    if not folders:
        message = (
            f"no class folders in {str(source.path)!r}. Give each class a folder of its own, "
            f"or use images:{source.path}"
        )
        raise DataError(message)
    return Dataset(
        source=source,
        samples=tuple(
            Sample(image, label=label)
            for label, folder in enumerate(folders)
            for image in _class_images(folder)
        ),
        classnames=_class_names(source.path, [folder.name for folder in folders]),
    )


def _class_images(folder: Path) -> list[Path]:
    images = find_images(folder)
    if not images:
        message = f"class folder {str(folder)!r} has no images. Add some or remove the folder."
        raise DataError(message)
    return images


def _class_names(root: Path, folders: list[str]) -> tuple[str, ...]:
    # Resolved, because the parent of a path such as "." or "data/.." is not one folder up.
    places = (root / NAMES_FILE, root.resolve().parent / NAMES_FILE)
    file = next(filter(is_file, places), None)
    if file is None:
        return tuple(folder.replace("_", " ") for folder in folders)
    names = _read_names(file)
    for folder in folders:
        if folder not in names:
            message = f"class folder {folder!r} is not listed in {str(file)!r}. Add a line for it."
            raise DataError(message)
    return tuple(names[folder] for folder in folders)


def _read_names(file: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        folder, _, name = (part.strip() for part in line.partition("\t"))
        if not folder or not name or "\t" in name:
            message = f"line {number} of {str(file)!r} is {line!r}. Write it as: folder TAB name."
            raise DataError(message)
        if folder in names:
            message = f"line {number} of {str(file)!r} lists {folder!r} again. Keep one line of it."
            raise DataError(message)
        names[folder] = name
    return names
