# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""More images out of those there are: parts of them, enlarged, every other one mirrored."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

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
