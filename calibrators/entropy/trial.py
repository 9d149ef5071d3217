# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The error at the end of a block for a choice of candidates, nothing computed twice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from calibrators.entropy.search import Choice
from qkit.calibration.bench import Rig, Stream
from qkit.calibration.importance import Importance
from qkit.graph.stages import Stage
from qkit.spec import PointId, QParams


class Trial:
    """Runs a block's stages on cached inputs with scales on trial.

    A stage's input is kept together with the choice that led to it, and used again as long as that
    part of the choice stays; memory is one block's streams. Samples are run a few at a time, and
    a choice is given up once its error exceeds the bound.

    Attributes:
        race: give a choice up, too, once it is behind the best one after any batch. On noisy
            candidates that saves more than half of the work; it may miss one that catches up.
        points: the variables, stage by stage in running order.
        options: candidates of each.
    """

    def __init__(
        self,
        rig: Rig,
        stages: Sequence[Stage],
        options: Mapping[PointId, Sequence[QParams]],
        arriving: Stream,
        target: Stream,
        importance: Importance,
        *,
        race: bool = True,
    ) -> None:
        self.rig = rig
        self.stages = stages
        own = [[p.point for p in stage.points if p.point in options] for stage in stages]
        self.points = [point for part in own for point in part]
        self.options = [options[point] for point in self.points]
        self.target = target
        self.race = race
        self.importance = importance
        self._ends = [sum(len(part) for part in own[:i]) for i in range(len(own))]
        self._kept: list[dict[int, tuple[Choice, Tensor]]] = [{0: ((), x)} for x in arriving]
        self._best = [math.inf] * len(arriving)
        self._installed: list[int | None] = [None] * len(self.points)

    @property
    def counts(self) -> list[int]:
        """Candidates of every variable."""
        return [len(option) for option in self.options]

    def error(self, choice: Choice, bound: float) -> float:
        """Weighted squared error at the block's end; anything above ``bound`` once exceeded."""
        self.install(choice)
        if math.isinf(bound):  # a new start has no rival yet
            self._best = [math.inf] * len(self._best)
        sums: list[float] = []
        with torch.no_grad():
            for number, rival in enumerate(self._best):
                off = self._leaving(number, choice) - self.target[number]
                sums.append(self.importance.error(number, off) + (sums[-1] if sums else 0.0))
                if sums[-1] > (min(rival, bound) if self.race else bound):
                    return math.inf
        self._best = sums
        return sums[-1]

    def install(self, choice: Choice) -> None:
        """Give the points the scales of ``choice``."""
        for place, candidate in enumerate(choice):
            if self._installed[place] != candidate:
                self.rig.put(self.points[place], self.options[place][candidate])
                self._installed[place] = candidate

    def _leaving(self, number: int, choice: Choice) -> Tensor:
        kept = self._kept[number]
        first = max(i for i, (led, _) in kept.items() if choice[: len(led)] == led)
        x = kept[first][1]
        for i in range(first, len(self.stages)):
            if i > first:
                kept[i] = (choice[: self._ends[i]], x)
            x = self.rig.step(self.stages[i], number, x)
        return x
