# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""One image file turned into pixels, or into one line that says why it cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError

from qkit.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

# Pillow reports damage by all of these; warnings arrive here only where they are made errors.
DAMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Warning)


class BadImageError(DataError):
    """An image file that cannot be decoded.

    Attributes:
        path: the file.
        reason: what is wrong with it, on one line.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"cannot read image {str(path)!r}: {reason}. Repair or remove it, or pass --skip-bad."
        )
        self.path = path
        self.reason = reason


def decode(path: Path) -> Image.Image:
    """Read an image file as RGB.

    Raises:
        BadImageError: the file is missing, truncated, damaged, far too large or no image.
    """
    try:
        with Image.open(path) as image:
            return _to_rgb(image)
    except DAMAGE as error:
        raise BadImageError(path, _reason(error)) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    # The same pixels as straight to RGB, without Pillow's warning about transparent palettes.
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a known format"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()).rstrip(".") or type(error).__name__
