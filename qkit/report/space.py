# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The error where users meet it: in embeddings, similarities, rankings and confidence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

TOP = 10
BINS = 15
LARGEST_REFIT = 4.0
REFIT_ROWS = 512
CHUNK = 1024  # images whose logits are held at once


class Embeddings(NamedTuple):
    """What the towers made of the same data: normalised images ``(N, dim)``, texts ``(M, dim)``."""

    images: Tensor
    texts: Tensor


@dataclass(frozen=True, slots=True)
class Space:
    """A quantized model's embedding space beside the float model's, on the same data.

    Attributes:
        image_cosine: mean cosine of float and quantized image embeddings, -1 to 1.
        text_cosine: the same of texts (or class embeddings).
        logit_kl: mean over images of KL(float || quantized) between the softmax over all texts of
            scaled similarities, nats.
        top1_agreement: share of images whose best text is the float model's, 0 to 1.
        churn: share of the float model's top 10 texts of an image that are no longer among the
            quantized model's top 10 (top half where there are fewer than 20 texts), 0 to 1.
        gap_float: distance of the mean image and the mean text embedding, the modality gap.
        gap_quantized: the same in the quantized model.
        scale_drift: the factor on the quantized model's logit scale that brings its probabilities
            closest to the float model's (least KL over at most 512 evenly spaced images); 1 is no
            drift, below 1 is overconfident.
        ece_float: expected calibration error over 15 equal confidence bins, 0 to 1; None without
            labels.
        ece_quantized: the same of the quantized model.
    """

    image_cosine: float
    text_cosine: float
    logit_kl: float
    top1_agreement: float
    churn: float
    gap_float: float
    gap_quantized: float
    scale_drift: float
    ece_float: float | None = None
    ece_quantized: float | None = None


def compare_spaces(
    before: Embeddings, after: Embeddings, logit_scale: float, labels: Tensor | None = None
) -> Space:
    """Measure what quantization did to an embedding space.

    Args:
        before: the float model's embeddings.
        after: the quantized model's, of the same data in the same order.
        logit_scale: factor from cosine to logit, 100 in most CLIP models.
        labels: index of the right text of every image ``(N,)``, where texts are classes.
    """
    sums = _Sums()
    for rows in torch.arange(len(before.images)).split(CHUNK):
        first, second = (_logits(space, rows, logit_scale) for space in (before, after))
        sums.add(first, second, None if labels is None else labels[rows])
    every = -(-len(before.images) // REFIT_ROWS)
    few = torch.arange(0, len(before.images), every)
    return Space(
        image_cosine=_mean_cosine(before.images, after.images),
        text_cosine=_mean_cosine(before.texts, after.texts),
        logit_kl=sums.divergence / sums.rows,
        top1_agreement=sums.same / sums.rows,
        churn=sums.churn / sums.rows,
        gap_float=_gap(before),
        gap_quantized=_gap(after),
        scale_drift=_scale_drift(*(_logits(space, few, logit_scale) for space in (before, after))),
        ece_float=sums.before.error if labels is not None else None,
        ece_quantized=sums.after.error if labels is not None else None,
    )


def _logits(space: Embeddings, rows: Tensor, scale: float) -> Tensor:
    return scale * space.images[rows].double() @ space.texts.double().T


@dataclass(slots=True)
class Confidence:
    """Expected calibration error over 15 equal bins (Guo et al. 2017, Eq 3), as running sums."""

    rows: int = 0
    sums: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Take in logits ``(N, classes)`` and the right classes ``(N,)``."""
        confidence, answer = logits.softmax(-1).max(dim=-1)
        place = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
        self.sums.index_add_(0, place, confidence - (answer == labels).double())
        self.rows += len(labels)

    @property
    def error(self) -> float:
        """Mean distance of confidence and accuracy, 0 to 1."""
        return float(self.sums.abs().sum() / self.rows)


@dataclass(slots=True)
class _Sums:
    rows: int = 0
    divergence: float = 0.0
    same: float = 0.0
    churn: float = 0.0
    before: Confidence = field(default_factory=Confidence)
    after: Confidence = field(default_factory=Confidence)

    def add(self, before: Tensor, after: Tensor, labels: Tensor | None) -> None:
        rows = len(before)
        self.rows += rows
        self.divergence += rows * divergence(before, after)
        self.same += float((before.argmax(-1) == after.argmax(-1)).sum())
        self.churn += rows * churn(before, after)
        if labels is not None:
            self.before.add(before, labels)
            self.after.add(after, labels)


def divergence(before: Tensor, after: Tensor) -> float:
    """Mean KL(before || after) of the softmax over the rows of two logit tables, in nats."""
    kl = F.kl_div(after.log_softmax(-1), before.log_softmax(-1), reduction="none", log_target=True)
    return max(0.0, float(kl.sum(-1).mean()))


def churn(before: Tensor, after: Tensor) -> float:
    """Share of each row's top entries in ``before`` that are not among ``after``'s."""
    count = min(TOP, max(1, before.shape[1] // 2))
    first, second = (table.topk(count, dim=-1).indices for table in (before, after))
    kept = (first[:, :, None] == second[:, None, :]).any(dim=-1)
    return 1.0 - float(kept.double().mean())


def _mean_cosine(first: Tensor, second: Tensor) -> float:
    return float(F.cosine_similarity(first.double(), second.double(), dim=-1).mean())


def _gap(space: Embeddings) -> float:
    return float((space.images.double().mean(0) - space.texts.double().mean(0)).norm())


def _scale_drift(before: Tensor, after: Tensor) -> float:
    found = minimize_scalar(
        lambda factor: divergence(before, factor * after),
        bounds=(1 / LARGEST_REFIT, LARGEST_REFIT),
        method="bounded",
        options={"xatol": 1e-4},
    )
    # with one text every factor fits alike: nothing has drifted
    return float(found.x) if found.fun < divergence(before, after) else 1.0
