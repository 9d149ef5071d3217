# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What an export is tried on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from qkit.clip.model import ClipModel
from qkit.clip.text import cut_padding, text_ends
from qkit.errors import ExportError
from qkit.exports.proof import Inputs, in_batches
from qkit.pipeline.inputs import open_calibration

SAMPLES = "demo:calib"
LEAST = 2


@dataclass(frozen=True, slots=True)
class Samples:
    """Images and texts, as batches of several sizes.

    Attributes:
        source: where they are from.
        count: images, and texts.
        inputs: batches by tower.
        any_length: texts may be shorter than the context, and some are.
    """

    source: str
    count: int
    inputs: Inputs
    any_length: bool


def open_samples(clip: ClipModel, source: str | None, count: int, seed: int) -> Samples:
    """Draw samples.

    Args:
        clip: as it encodes; its text tower takes short texts where it can.
        source: as a calibration takes it; None draws qkit's own scenes.
        count: images, and texts.
        seed: of the draw.

    Raises:
        DataError: the source cannot be read.
        ExportError: there are too few.
    """
    if count < LEAST:
        message = f"samples = {count} prove nothing. Use {LEAST} or more."
        raise ExportError(message)
    data = open_calibration(source or SAMPLES, count, seed, skip_bad=False)
    pixels = [batch.images for batch in data.batches(clip, 32) if batch.images is not None]
    tokens: Tensor = clip.tokenizer(list(data.texts))
    any_length = text_ends(clip.model, tokens) is not None
    cut = partial(cut_padding, clip.model) if any_length else None
    inputs: Mapping[str, Sequence[Tensor]] = {
        "image": in_batches(torch.cat(pixels)),
        "text": in_batches(tokens, cut),
    }
    return Samples(data.source, len(tokens), inputs, any_length)
