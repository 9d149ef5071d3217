# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What the candidates are made of: an input's channels and the weights that read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from calibrators.rows import row_weights

LEAST = 1e-3  # of the largest: channels that hold next to nothing are not blown up further


@dataclass(frozen=True, slots=True)
class Moments:
    """An input ``(rows, n)`` and a weight ``(out, n)``, channel by channel; all are ``(n,)``.

    Rows count by the inverse of their energy: with a scale a token each is rounded as finely as it
    is large, and a few massive ones would otherwise stand for all.

    Attributes:
        mean: of the input.
        spread: root mean square about zero.
        deviation: root mean square about the mean.
        low: smallest value.
        high: largest value.
        weight: root of the sum of squares of the weight.
        weight_max: largest magnitude of the weight.
    """

    mean: Tensor
    spread: Tensor
    deviation: Tensor
    low: Tensor
    high: Tensor
    weight: Tensor
    weight_max: Tensor

    @classmethod
    def of(cls, rows: Tensor, weight: Tensor) -> Self:
        """Measure both."""
        share = row_weights(rows)[:, None]
        mean = (rows * share).sum(0)
        return cls(
            mean,
            floored((rows.square() * share).sum(0).sqrt()),
            floored(((rows - mean).square() * share).sum(0).sqrt()),
            *torch.aminmax(rows, dim=0),
            floored(weight.norm(dim=0)),
            floored(weight.abs().amax(dim=0)),
        )


def floored(values: Tensor) -> Tensor:
    """Magnitudes raised to a thousandth of the largest; all ones where all are zero."""
    largest = values.max()
    return values.clamp(min=LEAST * float(largest)) if largest > 0 else torch.ones_like(values)
