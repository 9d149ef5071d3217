# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""AdaRound (Nagel et al., arXiv 2004.10568): up or down, learned for each value of a weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from calibrators.rounding.layerwise import Layerwise
from qkit.grids.ladder import ladder
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
        scale, rungs = q.scale.reshape(-1, 1), ladder(q, spec)
        below, above = rungs.around(weight / scale)
        gap = above - below  # 0 beyond the ends, where there is nothing to decide
        nearest = rungs.nearest(weight / scale) * scale - weight
        usual = ((nearest @ moment) * nearest).sum().clamp(min=torch.finfo(weight.dtype).tiny)
        share = ((weight / scale - below) / gap).where(gap > 0, 0.0).clamp(0, 1)
        moved = torch.logit((share - STRETCH[0]) / (STRETCH[1] - STRETCH[0]))
        adam = torch.optim.Adam([moved], lr=self.rate)
        for step in range(self.iterations):
            up = raised(moved)
            off = (below + up * gap) * scale - weight
            slope = (off @ moment).mul_(scale).mul_(gap)
            slope.mul_(2 / usual).sub_(self._decided(up, step / self.iterations))
            moved.grad = slope * _steepness(moved)
            adam.step()
        return rungs.integers(torch.where(moved >= 0, above, below))

    def _decided(self, up: Tensor, done: float) -> Tensor | float:
        """Slope of ``pull`` times the mean of |2 h - 1|^b.

        b falls, so that values are let go at first and decided last.
        """
        if done < FREE:
            return 0.0
        first, last = SHARPNESS
        sharpness = first + (last - first) * (done - FREE) / (1 - FREE)
        side = 2 * up - 1
        slope = side.abs().pow_(sharpness - 1).copysign_(side)
        return slope.mul_(2 * sharpness * self.pull / up.numel())


def raised(moved: Tensor) -> Tensor:
    """h(V), between 0 (down) and 1 (up): a stretched sigmoid, clipped."""
    low, high = STRETCH
    return (moved.sigmoid() * (high - low) + low).clamp(0, 1)


def _steepness(moved: Tensor) -> Tensor:
    """Slope of h: none where it is clipped."""
    low, high = STRETCH
    part = moved.sigmoid()
    inside = (part > -low / (high - low)) & (part < (1 - low) / (high - low))
    return (part * (1 - part)).mul_(high - low).mul_(inside)
