# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A folder of images about which nothing else is known: enough to calibrate, not to score."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qkit.data.files import SUFFIXES, find_images
from qkit.data.sample import Dataset, Sample
from qkit.errors import DataError, choices

if TYPE_CHECKING:
    from qkit.data.source import Source


def read_images(source: Source) -> Dataset:
    """List all images below a folder, in the order of their paths.

    Raises:
        DataError: there are none, or a folder cannot be read.
    """
    images = find_images(source.path)
    if not images:
        message = (
            f"no images below {str(source.path)!r}. "
            f"Name a folder that holds some: {choices(sorted(SUFFIXES))}."
        )
        raise DataError(message)
    return Dataset(source, tuple(Sample(image) for image in images))
