# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What is minimised: the error at the end of a block, and that of the embedding."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from calibrators.reconstruction.lessons import Lessons
from qkit.calibration.bench import Rig, Stream
from qkit.calibration.importance import Importance
from qkit.graph.stages import Stage


@dataclass(frozen=True, slots=True)
class BlockError:
    """Mean squared error of a block's output, each value by its importance for the embedding.

    The importance is the diagonal of J^T J for the embedding's Jacobian J: the Fisher weighting of
    BRECQ (arXiv 2102.05426, Eq 10) with the embedding in the place of a loss.

    Attributes:
        rig: the block's tower.
        stage: the block.
        stream: what arrives at it in the quantized model.
        target: what leaves it in the float model.
        importance: of its end.
    """

    rig: Rig
    stage: Stage
    stream: Stream
    target: Stream
    importance: Importance

    def __call__(self, number: int) -> Tensor:
        """The error of one batch."""
        off = self.rig.step(self.stage, number, self.stream[number]) - self.target[number]
        by_token = off.square() @ self.importance.channels[:, None]
        return (by_token * self.importance.tokens[number]).mean()


@dataclass(frozen=True, slots=True)
class TowerError:
    """How far a tower's embedding is from the float one.

    Attributes:
        rig: the tower.
        lessons: samples and the embeddings that they are to have, by the number of a batch.
        others: float embeddings ``(n, dim)`` of the other tower.
        scale: factor from cosine to logit.
        distance: what 1 - cosine counts; the divergence of the probabilities over ``others``
            counts 1.
    """

    rig: Rig
    lessons: Lessons
    others: Tensor
    scale: float
    distance: float

    def __call__(self, number: int) -> Tensor:
        """The error of one batch."""
        samples, wanted = self.lessons(number)
        found = F.normalize(self.rig.encode(samples).float(), dim=-1)
        own, other = ((self.scale * x @ self.others.T).log_softmax(-1) for x in (found, wanted))
        divergence = F.kl_div(own, other, reduction="batchmean", log_target=True)
        return divergence + self.distance * (1 - (found * wanted).sum(-1)).mean()
