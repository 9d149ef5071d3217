# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Points in another mode for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from qkit.nn.tensor_quantizer import Mode, TensorQuantizer


@contextmanager
def in_mode(points: Iterable[TensorQuantizer], mode: Mode) -> Iterator[None]:
    """Switch points for a while, without counting their calls."""
    before = [(point, point.mode, point.fired) for point in points]
    for point, _, _ in before:
        point.mode = mode
    try:
        yield
    finally:
        for point, was, fired in before:
            point.mode, point.fired = was, fired
