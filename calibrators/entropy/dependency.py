# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""How strongly a layer's activations hang on its predecessor's (Q-VLM, arXiv 2410.08119, Eq 4-6).

The paper sums over all values of a tensor, so its measure grows with the number of tokens, and it
divides squared distances by the step, so it changes with the units. Here distances are counted in
steps, and the joint table is normalised: a conditional entropy in nats, at most ln(levels).
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 1e-30  # keeps the gradient of p ln p finite where a level is never reached
AT_ONCE = 1 << 21  # entries of the soft assignment that are held at a time


def soft_assignment(positions: Tensor, levels: int) -> Tensor:
    """Probability of every level for every value (Eq 5).

    Args:
        positions: values ``(N,)`` in units of the step, 0 at the lowest level.
        levels: number of levels, 2 to the bits.

    Returns:
        ``(N, levels)``; every row sums to 1.
    """
    places = torch.arange(levels, device=positions.device, dtype=positions.dtype)
    return (-(positions[:, None] - places).square()).softmax(dim=-1)


class Dependency:
    """Conditional entropy of one layer's levels given its predecessor's, gathered batch by batch.

    It holds one table of ``levels[0] x levels[1]`` numbers, however much data comes.
    """

    def __init__(self, levels: tuple[int, int]) -> None:
        self.levels = levels
        self.joint = torch.zeros(levels, dtype=torch.float64)
        self.count = 0

    def update(self, before: Tensor, after: Tensor) -> None:
        """Take in the positions of both layers' values, element for element.

        Where the layers' shapes differ there are no pairs of values: ``before`` then counts as
        constant, so that the marginal entropy of ``after`` is measured.
        """
        after = after.flatten()
        before = before.flatten() if before.numel() == len(after) else torch.zeros_like(after)
        chunk = max(1, AT_ONCE // max(self.levels))
        for x, y in zip(before.split(chunk), after.split(chunk), strict=True):
            first = soft_assignment(x, self.levels[0])
            second = soft_assignment(y, self.levels[1])
            self.joint += (first.T @ second).double().cpu()
        self.count += len(after)

    @property
    def value(self) -> float:
        """H(after | before) in nats, 0 to ln(levels) (Eq 4); 0 before any data."""
        if self.count == 0:
            return 0.0
        return max(0.0, float(conditional_entropy(self.joint / self.count)))


def conditional_entropy(joint: Tensor) -> Tensor:
    """H(second | first) in nats of a table of joint probabilities; differentiable."""
    return _entropy(joint) - _entropy(joint.sum(dim=1))


def _entropy(table: Tensor) -> Tensor:
    return -torch.xlogy(table, table.clamp(min=LEAST)).sum()
