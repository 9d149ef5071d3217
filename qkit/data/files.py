# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Looking at files and folders, with every refusal of the system turned into a DataError."""

import hashlib
import os
from pathlib import Path
from typing import NoReturn

from qkit.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


def is_file(path: Path) -> bool:
    """Return whether ``path`` is a file; one that cannot be reached counts as absent."""
    try:
        return path.is_file()
    except OSError:  # no permission on the way there, or a name longer than the system allows
        return False


def is_folder(path: Path) -> bool:
    """Return whether ``path`` is a folder; one that cannot be reached counts as absent."""
    try:
        return path.is_dir()
    except OSError:
        return False


def find_images(folder: Path) -> list[Path]:
    """Return the images below ``folder``, told by their suffix, in the order of their paths.

    Hidden files and what lies in hidden folders are left out. Links to folders are not followed.

    Raises:
        DataError: a folder cannot be read.
    """
    found: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found.extend(Path(place, name) for name in files if _is_image(name))
    return sorted(found, key=lambda path: path.parts)


def find_folders(folder: Path) -> list[Path]:
    """Return the folders directly in ``folder`` that are not hidden, in the order of their names.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        _refuse(error)
    return sorted((entry for entry in entries if is_folder(entry)), key=lambda path: path.name)


def read_text(path: Path) -> str:
    r"""Return the text of a UTF-8 file, without byte order mark, lines ended by ``\n``.

    Raises:
        DataError: the file cannot be read or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        _refuse(error)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        message = f"{str(path)!r} is not UTF-8 text (line {line}). Save it as UTF-8."
        raise DataError(message) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def hash_file(path: Path) -> bytes:
    """Return the SHA-256 of a file's bytes, 32 bytes.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        _refuse(error)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


def _refuse(error: OSError) -> NoReturn:
    message = (
        f"cannot read {str(error.filename)!r}: {error.strerror}. Check its path and permissions."
    )
    raise DataError(message) from error
