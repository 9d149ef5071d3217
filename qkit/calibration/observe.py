# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""One streaming pass over the calibration data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qkit.errors import CalibrationError
from qkit.graph.layers import list_points
from qkit.nn.tensor_quantizer import Mode
from qkit.progress import Advance


class Batch(NamedTuple):
    """Input of the two towers; either may be missing.

    images: pixels ``(N, 3, H, W)``. texts: token numbers ``(M, context)``.
    """

    images: Tensor | None
    texts: Tensor | None

    @property
    def size(self) -> int:
        """Images plus texts."""
        return sum(len(t) for t in self if t is not None)


def set_mode(model: nn.Module, mode: Mode) -> None:
    """Switch every point of ``model``."""
    for point in list_points(model):
        point.set_mode(mode)


def observe(model: nn.Module, batches: Iterable[Batch], advance: Advance) -> int:
    """Run ``batches`` through both encoders while every point observes; nothing else is kept.

    May be called again to add data. Leaves the model with all points off.

    Returns:
        the number of images and texts seen.

    Raises:
        CalibrationError: an activation is NaN or infinite, a point never fired, or no data came.
    """
    seen = 0
    set_mode(model, Mode.OBSERVE)
    try:
        with torch.no_grad():
            for batch in batches:
                _encode(model, batch)
                seen += batch.size
                advance(batch.size)
    finally:
        set_mode(model, Mode.OFF)
    if seen == 0:
        message = "there was no calibration data. Give at least one image and one text."
        raise CalibrationError(message)
    check_fired(model)
    return seen


def _encode(model: Any, batch: Batch) -> None:
    if batch.images is not None:
        model.encode_image(batch.images)
    if batch.texts is not None:
        model.encode_text(batch.texts)


def check_fired(model: nn.Module) -> None:
    """Refuse points that are enabled but that no tensor ever passed.

    Raises:
        CalibrationError: names them.
    """
    silent = [str(point.point) for point in list_points(model) if point.fired == 0]
    if silent:
        shown = ", ".join(silent[:5]) + (f" and {len(silent) - 5} more" if len(silent) > 5 else "")
        message = (
            f"{len(silent)} enabled points never fired: {shown}. The model bypasses these layers; "
            "leave them in float with an ignore rule."
        )
        raise CalibrationError(message)
