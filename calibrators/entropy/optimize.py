# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Learn scales and LayerNorms end to end (Q-VLM's visual encoder optimization, Eq 8 to 10).

L = L_reg + lambda1 L_ent + lambda2 L_err. The paper's L_reg is a language model's loss; CLIP's
counterpart without labels is the divergence of the image-text probabilities from the float
model's. Both towers are learned: they meet in that term.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from calibrators.entropy.dependency import conditional_entropy, soft_assignment
from qkit.calibration.bench import Rig, switched
from qkit.calibration.learn import frozen, open_learner
from qkit.graph.stages import Stage, first_input
from qkit.spec import Affine, PointId, QParams

VALUES = 1024  # of a stage's activation that its entropy is estimated on at a step


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


@dataclass(frozen=True, slots=True)
class Seen:
    """What one tower gives for one batch.

    Attributes:
        embedding: normalised, ``(N, dim)``.
        stream: after the last stage.
        activations: positions on the grid of the first input of every stage, a sample of values.
    """

    embedding: Tensor
    stream: Tensor
    activations: list[tuple[Tensor, int]]


class Tower:
    """One tower that is being learned.

    Attributes:
        rig: the tower; all its points have scales.
        learner: what is learned of it.
        importances: of an error at the end of each stage, summing to 1.
    """

    def __init__(self, rig: Rig, magnitudes: Sequence[float]) -> None:
        self.rig = rig
        self.learner = open_learner(rig)
        total = sum(magnitudes) or 1.0
        self.importances = [magnitude / total for magnitude in magnitudes]
        self.samples = torch.cat(rig.samples)

    def see(self, batch: Tensor, *, quantized: bool) -> Seen:
        """Run one batch, quantized with gradients or in float without."""
        points = list(self.rig.points.values())
        grad = torch.enable_grad() if quantized else torch.no_grad()
        with switched(points, quantized), grad, _watched(self.rig.stages) as (streams, found):
            embedding = F.normalize(self.rig.encode(batch), dim=-1)
        return Seen(embedding, streams[-1], found)


@contextmanager
def _watched(
    stages: Sequence[Stage],
) -> Iterator[tuple[list[Tensor], list[tuple[Tensor, int]]]]:
    """Collect the stream after the last stage and the first activation of every stage.

    One sample's activation is enough for an estimate of its entropy at every step.
    """
    streams: list[Tensor] = []
    found: list[tuple[Tensor, int]] = []

    def left(_: object, args: tuple[Tensor, ...], output: Tensor) -> None:
        streams.append(output)

    def arrived(point: Callable[[Tensor], Tensor], args: tuple[Tensor, ...]) -> None:
        positions = point.positions(args[0][:1]).flatten()  # type: ignore[attr-defined]
        every = max(1, len(positions) // VALUES)
        found.append((positions[::every], 1 << point.spec.bits))  # type: ignore[attr-defined]

    firsts = [first_input(s.layers, [layer.name for layer in s.layers])[1] for s in stages]
    handles = [stages[-1].module.register_forward_hook(left)]
    handles += [p.register_forward_pre_hook(arrived) for p in firsts if p is not None]
    try:
        yield streams, found
    finally:
        for handle in handles:
            handle.remove()


def entropy_loss(activations: Sequence[tuple[Tensor, int]], importances: Sequence[float]) -> Tensor:
    """L_ent (Eq 8): conditional entropies between neighbours, weighted by importance.

    The paper prints no minus; without it, minimising would raise the entropy, against its aim.
    """
    total = activations[0][0].new_zeros(())
    pairs = zip(activations, activations[1:], importances, strict=False)
    for (before, first), (after, second), importance in pairs:
        joint = soft_assignment(before, first).T @ soft_assignment(after, second) / len(after)
        total = total + importance * conditional_entropy(joint)
    return total


def error_loss(seen: Seen, target: Seen, stream: float) -> Tensor:
    """L_err (Eq 9): relative squared errors of the embedding and of the last stream."""

    def relative(x: Tensor, y: Tensor) -> Tensor:
        return (x - y).square().sum() / y.square().sum()

    return relative(seen.embedding, target.embedding) + stream * relative(
        seen.stream, target.stream
    )


def agreement_loss(seen: Sequence[Tensor], target: Sequence[Tensor], scale: float) -> Tensor:
    """L_reg: divergence of the image-text probabilities, both directions, from the float ones."""
    own, other = (scale * pair[0] @ pair[1].T for pair in (seen, target))
    both = ((own, other), (own.T, other.T))
    losses = [
        F.kl_div(x.log_softmax(-1), y.log_softmax(-1), reduction="batchmean", log_target=True)
        for x, y in both
    ]
    return losses[0] + losses[1]


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
        with frozen([tower.rig for tower in self.towers]):
            for _ in range(self.training.epochs):
                parts = torch.randperm(pairs, generator=generator).split(self.training.batch)
                losses = [self._step(part, adam) for part in parts]
                tell(sum(losses) / len(losses))

    def _step(self, part: Tensor, adam: torch.optim.Optimizer) -> float:
        adam.zero_grad()
        loss = self.loss(part)
        loss.backward()
        adam.step()
        return float(loss.detach())

    def loss(self, part: Tensor) -> Tensor:
        """Eq 10 for the pairs ``part``."""
        target = [tower.see(tower.samples[part], quantized=False) for tower in self.towers]
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
