# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What the demo model is trained for: to find the caption, and to name the thing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qkit.demo.training.batches import NO_CLASS


def caption_loss(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """CLIP's contrastive loss: mean cross entropy of both directions.

    Args:
        images: unit features ``(N, dim)``.
        texts: unit features ``(N, dim)`` of the captions, in the same order.
        scale: factor on the cosines.
    """
    logits = scale * images @ texts.T
    itself = torch.arange(len(images), device=images.device)
    return (F.cross_entropy(logits, itself) + F.cross_entropy(logits.T, itself)) / 2


def naming_loss(images: Tensor, prompts: Tensor, scale: Tensor, shown: Tensor) -> Tensor:
    """Cross entropy of the class of each picture that shows one, among all trained classes.

    Captions alone teach shapes slowly: colours and backgrounds tell most of them apart.

    Args:
        images: unit features ``(N, dim)``.
        prompts: unit features ``(classes, dim)``, one prompt a class.
        scale: factor on the cosines.
        shown: classes ``(N,)``, or NO_CLASS.
    """
    return F.cross_entropy(scale * images @ prompts.T, shown, ignore_index=NO_CLASS)
