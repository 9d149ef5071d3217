# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Learn scales and LayerNorms end to end (Q-VLM's visual encoder optimization, Eq 8 to 10).

L = L_reg + lambda1 L_ent + lambda2 L_err. The paper's L_reg is a language model's loss; CLIP's
counterpart without labels is the divergence of the image-text probabilities from the float
model's. Both towers are learned: they meet in that term.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from calibrators.entropy.losses import Seen, agreement_loss, entropy_loss, error_loss
from qkit.calibration.bench import Rig, rebatched
from qkit.calibration.learn import frozen, open_learner, watched
from qkit.calibration.running import switched
from qkit.errors import CalibrationError
from qkit.spec import Affine, PointId, QParams


@dataclass(frozen=True, slots=True)
class Training:
    """How to learn, and the factors of the loss.

    Attributes:
        epochs: passes over the pairs.
        batch: pairs a step.
        rate: step size (Adam) of the scales' logarithms and of gain and shift.
        entropy: lambda1, of the conditional entropies.
        error: lambda2, of the errors of embedding and stream.
        stream: eta, of the stream's error within L_err.
        seed: of the pairs' order.
    """

    epochs: int
    batch: int
    rate: float
    entropy: float
    error: float
    stream: float
    seed: int


class Tower:
    """One tower that is being learned.

    Attributes:
        rig: the tower; all its points have scales.
        learner: what is learned of it.
        importances: of an error at the end of each stage, summing to 1.
        samples: all of the rig's.
    """

    def __init__(self, rig: Rig, magnitudes: Sequence[float]) -> None:
        self.rig = rig
        self.learner = open_learner(rig)
        total = sum(magnitudes) or 1.0
        self.importances = [magnitude / total for magnitude in magnitudes]
        [self.samples] = rebatched(rig.samples, len(rig.samples) * len(rig.samples[0]))
        batches = self.samples.split(len(rig.samples[0]))
        seen = [self.see(batch, quantized=False) for batch in batches]
        self._embeddings = torch.cat([one.embedding for one in seen])
        self._streams = torch.cat([one.stream for one in seen])

    def target(self, part: Tensor) -> Seen:
        """What the float tower gives for the samples ``part``, its activations left out."""
        return Seen(self._embeddings[part], self._streams[part], [])

    def see(self, batch: Tensor, *, quantized: bool) -> Seen:
        """Run one batch, quantized with gradients or in float without."""
        points = list(self.rig.points.values())
        grad = torch.enable_grad() if quantized else torch.no_grad()
        with switched(points, quantized), grad, watched(self.rig.stages) as (streams, found):
            embedding = F.normalize(self.rig.encode(batch), dim=-1)
        return Seen(embedding, streams[-1], found)


@dataclass(slots=True)
class Optimizer:
    """Learns both towers together.

    Attributes:
        towers: image and text, with as many samples each.
        scale: factor from cosine to logit.
        training: how to learn.
    """

    towers: Sequence[Tower]
    scale: float
    training: Training

    def run(self, tell: Callable[[float], None]) -> None:
        """Learn; ``tell`` is given the mean loss of every epoch."""
        learners = [tower.learner for tower in self.towers]
        moved = [x for la in learners for x in (*la.steps, *(t for a in la.affines for t in a))]
        adam = torch.optim.Adam(moved, lr=self.training.rate)
        generator = torch.Generator().manual_seed(self.training.seed)
        pairs = min(len(tower.samples) for tower in self.towers)
        steps = self.training.epochs * math.ceil(pairs / self.training.batch)
        decay = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, total_iters=steps)
        with frozen([tower.rig for tower in self.towers]):
            for _ in range(self.training.epochs):
                parts = torch.randperm(pairs, generator=generator).split(self.training.batch)
                losses = [self._step(part, adam, decay) for part in parts]
                tell(sum(losses) / len(losses))

    def _step(
        self,
        part: Tensor,
        adam: torch.optim.Optimizer,
        decay: torch.optim.lr_scheduler.LRScheduler,
    ) -> float:
        adam.zero_grad()
        loss = self.loss(part)
        loss.backward()
        adam.step()
        decay.step()
        return float(loss.detach())

    def loss(self, part: Tensor) -> Tensor:
        """Eq 10 for the pairs ``part``."""
        target = [tower.target(part) for tower in self.towers]
        seen = []
        for tower in self.towers:
            with tower.learner.applied():
                seen.append(tower.see(tower.samples[part], quantized=True))
        features = [[one.embedding for one in side] for side in (seen, target)]
        loss = agreement_loss(features[0], features[1], self.scale)
        for tower, own, wanted in zip(self.towers, seen, target, strict=True):
            loss = loss + self.training.error * error_loss(own, wanted, self.training.stream)
            if self.training.entropy:
                entropies = entropy_loss(own.activations, tower.importances)
                loss = loss + self.training.entropy * entropies
        return loss


def optimize(
    rigs: Sequence[Rig],
    magnitudes: Mapping[str, Sequence[float]],
    scale: float,
    training: Training,
    tell: Callable[[float], None],
) -> tuple[dict[PointId, QParams], dict[PointId, Affine]]:
    """Learn scales and affines of both towers, starting from the installed scales.

    Args:
        rigs: image and text tower.
        magnitudes: gradient of the embedding at the end of each stage, by tower.
        scale: factor from cosine to logit.
        training: how to learn.
        tell: given the mean loss of every epoch.
    """
    towers = [Tower(rig, magnitudes[rig.tower]) for rig in rigs]
    Optimizer(towers, scale, training).run(tell)
    scales: dict[PointId, QParams] = {}
    affines: dict[PointId, Affine] = {}
    for tower in towers:
        found = tower.learner.learned()
        scales |= found[0]
        affines |= found[1]
    return scales, affines


def require_stages(rigs: Sequence[Rig]) -> None:
    """Refuse to learn a model whose blocks cannot be followed.

    Raises:
        CalibrationError: says so.
    """
    if not rigs or not all(rig.stages for rig in rigs):
        message = (
            "optimize_encoder needs both towers' blocks to follow each other, which this "
            "model's do not. Leave it out."
        )
        raise CalibrationError(message)
