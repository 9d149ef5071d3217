# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Context vectors that are learned instead of words (CoOp, arXiv 2109.01134)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SPREAD = 0.02


class PromptLearner(nn.Module):
    """Context vectors as the parameter of a text tower that is frozen.

    Attributes:
        context: ``(vectors, width)``, shared by all texts, or ``(classes, vectors, width)``.
    """

    def __init__(self, context: Tensor) -> None:
        super().__init__()
        self.context = nn.Parameter(context.detach().clone().float())

    @property
    def shared(self) -> bool:
        """Whether all texts have the same vectors."""
        return self.context.ndim == 2

    def forward(self, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Normalised text features ``(texts, dim)``; ``encode`` runs the tower with the vectors."""
        return F.normalize(encode(self.context).float(), dim=-1)


def random_context(vectors: int, width: int, seed: int) -> Tensor:
    """Vectors ``(vectors, width)`` from N(0, 0.02), the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return SPREAD * torch.randn(vectors, width, generator=generator)


def per_class(context: Tensor, classes: int) -> Tensor:
    """The same vectors for each class to start from, ``(classes, vectors, width)``."""
    return context.expand(classes, -1, -1).clone()
