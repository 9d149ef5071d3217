# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""AdaRound (Nagel et al., arXiv 2004.10568): up or down, learned for each value of a weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from calibrators.rounding.layerwise import Layerwise
from qkit.spec import QParams, QuantSpec

STRETCH = (-0.1, 1.1)  # what the sigmoid spans before it is clipped, so that 0 and 1 are reached
SHARPNESS = (20.0, 2.0)  # of the pull towards 0 and 1, from first to last
FREE = 0.2  # of the iterations, at first, have no such pull


@dataclass(frozen=True)
class AdaRound(Layerwise):
    """Weights rounded up or down as gradients of their layer's output like it (AdaRound).

    Attributes:
        iterations: steps of Adam for each weight.
        rate: their size.
        pull: what an undecided value costs, relative to the error of the nearest integers.
    """

    iterations: int = 300
    rate: float = 0.1
    pull: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("iterations", "rate", "pull"):
            if not getattr(self, name) > 0:
                message = f"{name} = {getattr(self, name)} is not possible. Use a positive number."
                raise ValueError(message)

    def choose(self, weight: Tensor, moment: Tensor, q: QParams, spec: QuantSpec) -> Tensor:
        """See ``Layerwise.choose``; Eq 21 to 24 of the paper, with the moment for all inputs."""
        scale, zero_point = (t.float().expand(len(weight))[:, None] for t in q)
        low, high = spec.quant_min - zero_point, spec.quant_max - zero_point
        below = (weight / scale).floor()
        usual = _error(_clipped((weight / scale).round(), low, high) * scale - weight, moment)
        decided = (weight / scale - below - STRETCH[0]) / (STRETCH[1] - STRETCH[0])
        moved = torch.logit(decided).requires_grad_()
        adam = torch.optim.Adam([moved], lr=self.rate)
        for step in range(self.iterations):
            adam.zero_grad()
            with torch.enable_grad():
                up = raised(moved)
                off = _clipped(below + up, low, high) * scale - weight
                loss = _error(off, moment) / usual.clamp(min=torch.finfo(usual.dtype).tiny)
                (loss + self.pull * _undecided(up, step / self.iterations)).backward()
            adam.step()
        levels = _clipped(below + (moved.detach() >= 0), low, high)
        return (levels + zero_point).to(torch.int16)


def raised(moved: Tensor) -> Tensor:
    """h(V), between 0 (down) and 1 (up): a stretched sigmoid, clipped."""
    low, high = STRETCH
    return (moved.sigmoid() * (high - low) + low).clamp(0, 1)


def _undecided(up: Tensor, done: float) -> Tensor:
    """Mean of 1 - |2 h - 1|^b; b falls, so that values are let go at first and decided last."""
    if done < FREE:
        return up.new_zeros(())
    first, last = SHARPNESS
    sharpness = first + (last - first) * (done - FREE) / (1 - FREE)
    return (1 - (2 * up - 1).abs().pow(sharpness)).mean()


def _clipped(levels: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(levels, low), high)


def _error(off: Tensor, moment: Tensor) -> Tensor:
    """Squared error of the output."""
    return ((off @ moment) * off).sum()
