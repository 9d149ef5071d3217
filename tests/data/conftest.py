# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Tiny images, whole and damaged, painted where a test wants them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HEIGHT, WIDTH = 6, 8


@pytest.fixture(scope="session")
def paint() -> Callable[..., Path]:
    """Write noise of a seed as an image, format by suffix, making its folder; return its path."""

    def write(path: Path, seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        return path

    return write


@pytest.fixture(scope="session")
def truncate(paint) -> Callable[[Path], Path]:
    """Write an image whose second half is missing; return its path."""

    def write(path: Path) -> Path:
        content = paint(path, size=(64, 64)).read_bytes()
        path.write_bytes(content[: len(content) // 2])
        return path

    return write
