# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
import pytest

from qkit.data.images import read_images
from qkit.data.sample import Dataset, Sample
from qkit.data.source import Kind, Source
from qkit.errors import DataError


def test_all_images_below_the_folder_in_order(tmp_path, paint):
    paths = [paint(tmp_path / name) for name in ("b.png", "a.jpg", "inner/c.bmp")]
    source = Source(Kind.IMAGES, tmp_path)
    assert read_images(source) == Dataset(source, tuple(Sample(path) for path in sorted(paths)))


def test_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=f"no images below '{tmp_path}'. Name a folder .*[.]png"):
        read_images(Source(Kind.IMAGES, tmp_path))
