# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The three terms of what is minimised (Q-VLM, arXiv 2410.08119, Eq 8 to 10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from calibrators.entropy.dependency import conditional_entropy, soft_assignment
from qkit.calibration.learn import Activation

VALUES = 1024  # of a stage's activation that its entropy is estimated on at a step


@dataclass(frozen=True, slots=True)
class Seen:
    """What one tower gives for one batch.

    Attributes:
        embedding: normalised, ``(N, dim)``.
        stream: after the last stage.
        activations: at the first input that every stage rounds; None where it rounds none.
    """

    embedding: Tensor
    stream: Tensor
    activations: list[Activation | None]


def entropy_loss(activations: Sequence[Activation | None], importances: Sequence[float]) -> Tensor:
    """L_ent (Eq 8): conditional entropies between neighbours, weighted by importance.

    The paper prints no minus; without it, minimising would raise the entropy, against its aim.
    """
    total = torch.zeros(())
    pairs = zip(activations, activations[1:], importances, strict=False)
    for before, after, importance in pairs:
        if before is not None and after is not None:
            total = total + importance * _uncertainty(before, after)
    return total


def _uncertainty(before: Activation, after: Activation) -> Tensor:
    """H(after | before); where the shapes differ, ``before`` counts as constant."""
    x, y = before[0], after[0]
    x = x if len(x) == len(y) else torch.zeros_like(y)
    every = max(1, len(y) // VALUES)
    first, second = (
        soft_assignment(values[::every], levels)
        for values, levels in ((x, before[1]), (y, after[1]))
    )
    return conditional_entropy(first.T @ second / len(second))


def error_loss(seen: Seen, target: Seen, stream: float) -> Tensor:
    """L_err (Eq 9): relative squared errors of the embedding and of the last stream."""

    def relative(x: Tensor, y: Tensor) -> Tensor:
        return (x - y).square().sum() / y.square().sum()

    return relative(seen.embedding, target.embedding) + stream * relative(
        seen.stream, target.stream
    )


def agreement_loss(seen: Sequence[Tensor], target: Sequence[Tensor], scale: float) -> Tensor:
    """L_reg: divergence of the image-text probabilities, both directions, from the float ones."""
    own, other = (scale * pair[0] @ pair[1].T for pair in (seen, target))
    both = ((own, other), (own.T, other.T))
    losses = [
        F.kl_div(x.log_softmax(-1), y.log_softmax(-1), reduction="batchmean", log_target=True)
        for x, y in both
    ]
    return losses[0] + losses[1]
