# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Figures from normalised features: zero-shot accuracy and retrieval, as fractions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

RECALL_AT = (1, 5, 10)


def classification(images: Tensor, classes: Tensor, labels: Tensor) -> dict[str, float]:
    """Top-1 and top-5 of features ``(N, dim)`` against class embeddings ``(C, dim)``."""
    count = min(5, len(classes))
    hits = (images @ classes.T).topk(count, dim=-1).indices == labels[:, None]
    return {
        "top1": float(hits[:, 0].double().mean()),
        "top5": float(hits.any(dim=-1).double().mean()),
    }


def retrieval(images: Tensor, texts: Tensor, owner: Tensor) -> dict[str, dict[str, float]]:
    """Recall at 1, 5 and 10 both ways; text i describes image ``owner[i]``.

    Image to text counts a hit when any of the image's texts is among the first k.
    """
    scores = images @ texts.T
    mine = owner[None, :] == torch.arange(len(images))[:, None]
    return {
        "image_to_text": _recall(scores, mine),
        "text_to_image": _recall(scores.T, mine.T),
    }


def _recall(scores: Tensor, relevant: Tensor) -> dict[str, float]:
    order = scores.topk(min(max(RECALL_AT), scores.shape[1]), dim=-1).indices
    hits = relevant.gather(1, order)
    return {f"r{k}": float(hits[:, :k].any(dim=-1).double().mean()) for k in RECALL_AT}


def top_agreement(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Share of rows whose largest entry is in the same place, over pairs of score tables."""
    same = [a.argmax(-1) == b.argmax(-1) for a, b in zip(first, second, strict=True)]
    return float(torch.cat(same).double().mean())
