# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What each row of an input counts, where errors of rows are added up."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 1e-3  # of the median energy: rows that hold next to nothing do not stand for all


def inverse_energy(rows: Tensor) -> Tensor:
    """One over the sum of squares of each row of ``(n, in)``; 0 for a row of zeros; ``(n,)``."""
    energy = rows.square().sum(1)
    there = energy[energy > 0]
    if not len(there):
        return torch.zeros_like(energy)
    return torch.where(energy > 0, 1 / energy.clamp(min=LEAST * float(there.median())), 0.0)


def row_weights(rows: Tensor) -> Tensor:
    """What each row of ``(n, in)`` counts: its inverse energy; ``(n,)``, summing to 1.

    With a scale a token each row is rounded as finely as it is large. Unweighted, the errors of a
    few massive tokens would stand for all.
    """
    weights = inverse_energy(rows)
    total = weights.sum()
    return weights / total if bool(total > 0) else torch.full_like(weights, 1 / len(weights))
