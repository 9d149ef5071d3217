# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Everything that decides how the demo model is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of training with its own optimizers.

    Attributes:
        steps: optimizer steps.
        batch_size: pictures a step.
        learning_rate: peak.
        warmup: steps over which the learning rate rises.
        final: share of the peak at the end.
    """

    steps: int
    batch_size: int
    learning_rate: float = 2e-3
    warmup: int = 100
    final: float = 0.0

    @property
    def size(self) -> int:
        """Pictures in all."""
        return self.steps * self.batch_size

    def rate(self, step: int) -> float:
        """Factor on the learning rate: linear warmup, then a cosine down to the final share."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True, slots=True)
class Plan:
    """Both stages, one after the other.

    Attributes:
        shapes: the image tower learns to tell shapes, with a linear head that is then dropped.
        pairs: both towers learn to match pictures and texts.
        seed: of weights and scenes.
        weight_decay: on matrices only.
        workers: processes that draw scenes; no effect on the result.
    """

    shapes: Stage = Stage(steps=2400, batch_size=32, final=0.2)
    pairs: Stage = Stage(steps=2600, batch_size=64)
    seed: int = 0
    weight_decay: float = 0.05
    workers: int = 1

    def shortened(self, divisor: int) -> Plan:
        """Return the plan with that many times fewer steps, at least 2 a stage."""
        fewer = [replace(s, steps=max(2, s.steps // divisor)) for s in (self.shapes, self.pairs)]
        return replace(self, shapes=fewer[0], pairs=fewer[1])


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the training log: mean losses since the line before.

    Attributes:
        stage: "shapes" or "pairs".
        step: optimizer steps done in this stage.
        losses: nats, by name.
        seconds: since the stage began.
    """

    stage: str
    step: int
    losses: dict[str, float]
    seconds: float
