# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""More images out of those there are: parts of them, enlarged, every other one mirrored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from qkit.calibration.bench import Rig, Stream

Samples = Callable[[int], Tensor]
"""Samples by the number of a batch."""

LEAST = 0.35  # of an image's side: what a crop shows at least


def crops(pixels: Tensor, generator: Generator | None = None) -> Tensor:
    """One random crop of every image, brought back to its size.

    Objects in the middle of a picture become large and blurred, as thumbnails are: weights that are
    learned from a few hundred scenes alone lose what they gain there on other images.

    Args:
        pixels: ``(N, 3, H, W)``.
        generator: on the CPU; None for torch's own.
    """
    return torch.cat([_crop(image, generator) for image in pixels.split(1)])


def _crop(image: Tensor, generator: Generator | None) -> Tensor:
    share, down, across, side = torch.rand(4, generator=generator).tolist()
    full = image.shape[-2:]
    height, width = (max(1, round((LEAST + (1 - LEAST) * share) * size)) for size in full)
    top, left = int(down * (full[0] - height + 1)), int(across * (full[1] - width + 1))
    part = image[..., top : top + height, left : left + width]
    if side < 0.5:
        part = part.flip(-1)
    low, high = torch.aminmax(image)  # bicubic interpolation overshoots
    shape = (full[0], full[1])
    return F.interpolate(part, shape, mode="bicubic", antialias=True).clamp(low, high)


def views(rig: Rig, each: int) -> Samples:
    """What a tower sees of its samples.

    Args:
        rig: the tower.
        each: crops of an image for each time it is seen as it is; texts have none.
    """
    if rig.tower != "image" or not each:
        return rig.samples.__getitem__
    return Cropped(rig.samples, each / (each + 1))


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
