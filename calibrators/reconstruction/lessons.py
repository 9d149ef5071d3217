# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a tower learns from: samples, and what the float model makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from calibrators.reconstruction.views import crops
from qkit.calibration.bench import Rig, Stream
from qkit.calibration.running import switched

Samples = Callable[[int], Tensor]
"""Samples by the number of a batch."""


@dataclass(frozen=True, slots=True)
class Passage:
    """What a tower makes of a batch of samples.

    Attributes:
        ends: the residual stream behind every block, ``(..., width)``; none where blocks do not
            simply follow each other.
        embedding: normalised ``(N, dim)``.
    """

    ends: Stream
    embedding: Tensor


def passage(rig: Rig, samples: Tensor) -> Passage:
    """Send samples through a tower, its points as they are switched."""
    with _ends(rig) as ends:
        embedding = F.normalize(rig.encode(samples).float(), dim=-1)
    return Passage(ends, embedding)


def float_passage(rig: Rig, samples: Tensor) -> Passage:
    """Send samples through the float tower, without gradients."""
    with switched(rig.points.values(), False), torch.no_grad():
        return passage(rig, samples)


@contextmanager
def _ends(rig: Rig) -> Iterator[Stream]:
    """Collect the stream behind every block."""
    ends: Stream = []
    handles = [
        stage.module.register_forward_hook(lambda _, __, output: ends.append(output))
        for stage in rig.stages
    ]
    try:
        yield ends
    finally:
        for handle in handles:
            handle.remove()


def views(rig: Rig, crops: int) -> Samples:
    """What a tower sees of its samples.

    Args:
        rig: the tower.
        crops: of an image for each time it is seen as it is; texts have none.
    """
    if rig.tower != "image" or not crops:
        return rig.samples.__getitem__
    return Cropped(rig.samples, crops / (crops + 1))


@dataclass(frozen=True, slots=True)
class Cropped:
    """Images as they are, or, as often as ``share`` says, crops that are drawn anew each time.

    Chance is torch's own (CPU), which a training seeds and, interrupted, keeps.
    """

    images: Stream
    share: float

    def __call__(self, number: int) -> Tensor:
        """See ``Samples``."""
        images = self.images[number]
        return crops(images) if float(torch.rand(())) < self.share else images
