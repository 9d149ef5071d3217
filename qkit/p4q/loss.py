# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a prompt and an adapter are trained by: the task, and the float teacher's prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from qkit.p4q.config import LossConfig


class Losses(NamedTuple):
    """What a step found: the loss to lower, and the share of right answers, 0 to 1."""

    loss: Tensor
    accuracy: float


@dataclass(frozen=True, slots=True)
class Loss:
    """``task * cross entropy + distill * distance(teacher, student)``.

    The distance is KL(teacher || student) of both predictions at the same temperature T, times T
    squared, so that its gradient does not shrink with T.

    Attributes:
        config: weights, temperature, mode.
    """

    config: LossConfig

    def of_classes(self, student: Tensor, teacher: Tensor | None, labels: Tensor) -> Losses:
        """The loss of logits ``(N, classes)`` at the model's logit scale.

        Args:
            student: logits of what learns.
            teacher: logits of the float model; None where the distance has no weight.
            labels: right class of each image, ``(N,)``.
        """
        task = F.cross_entropy(student, labels)
        right = (student.detach().argmax(dim=-1) == labels).float().mean()
        return Losses(self._sum(task, self._distance(student, teacher)), float(right))

    def of_pairs(self, student: Tensor, teacher: Tensor | None) -> Losses:
        """The symmetric loss of the logits ``(N, N)`` of N images and their captions.

        It is the mean of both directions, of images over captions and of captions over images.
        """
        labels = torch.arange(len(student), device=student.device)
        turned = None if teacher is None else teacher.T
        ways = (
            self.of_classes(student, teacher, labels),
            self.of_classes(student.T, turned, labels),
        )
        return Losses((ways[0].loss + ways[1].loss) / 2, (ways[0].accuracy + ways[1].accuracy) / 2)

    def _sum(self, task: Tensor, distance: Tensor | None) -> Tensor:
        weighted = self.config.task * task
        return weighted if distance is None else weighted + self.config.distill * distance

    def _distance(self, student: Tensor, teacher: Tensor | None) -> Tensor | None:
        if teacher is None or self.config.distill == 0:
            return None
        t = self.config.temperature
        if self.config.released:
            return released_distance(student / t, teacher / t)
        mine, wanted = (student / t).log_softmax(-1), (teacher / t).log_softmax(-1)
        return t * t * F.kl_div(mine, wanted, reduction="batchmean", log_target=True)


def released_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """The distillation of the paper's released code, for comparison.

    Its arguments are swapped, and it takes the teacher's probabilities for logits: what it lowers
    is ``mean(logsumexp(p_t) - <p_t, p_s>)``, least where all of the student's probability is on the
    teacher's best class.
    """
    return F.cross_entropy(teacher.softmax(-1), student.softmax(-1))
