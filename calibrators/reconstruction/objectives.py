# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What is minimised: the error at the end of a block, and that of a tower."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from calibrators.reconstruction.passage import float_passage, passage
from calibrators.reconstruction.views import Samples
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
    """How far a tower is from the float one: its embedding, and the stream behind every block.

    Attributes:
        rig: the tower.
        samples: what is learned from, by the number of a batch.
        others: float embeddings ``(n, dim)`` of the other tower.
        scale: factor from cosine to logit.
        distance: what 1 - cosine counts; the divergence of the probabilities over ``others``
            counts 1.
        streams: what ``stream_error`` counts, mean over the blocks.
    """

    rig: Rig
    samples: Samples
    others: Tensor
    scale: float
    distance: float
    streams: float

    def __call__(self, number: int) -> Tensor:
        """The error of one batch."""
        samples = self.samples(number)
        wanted, found = float_passage(self.rig, samples), passage(self.rig, samples)
        error = self._of_embedding(found.embedding, wanted.embedding)
        if not self.streams or not found.ends:
            return error
        ended = None if samples.is_floating_point() else ended_tokens(samples)
        errors = [
            stream_error(own, other, ended)
            for own, other in zip(found.ends, wanted.ends, strict=True)
        ]
        return error + self.streams * torch.stack(errors).mean()

    def _of_embedding(self, found: Tensor, wanted: Tensor) -> Tensor:
        own, other = ((self.scale * x @ self.others.T).log_softmax(-1) for x in (found, wanted))
        divergence = F.kl_div(own, other, reduction="batchmean", log_target=True)
        return divergence + self.distance * (1 - (found * wanted).sum(-1)).mean()


def stream_error(found: Tensor, wanted: Tensor, ended: Tensor | None = None) -> Tensor:
    """Mean squared difference of two residual streams, each token normalised as a LayerNorm does.

    So massive tokens count as others do, and 2 (1 - correlation) is what a token adds. An embedding
    tells one vector a sample of what went wrong, streams tell it of every token, where it happened:
    features as distillation has them (FitNets, arXiv 1412.6550).

    Args:
        found: ``(N, tokens, width)``, or ``(tokens, N, width)``.
        wanted: of the same shape.
        ended: ``(N, tokens)``, True behind the end of a text: nothing reads these. Where a tower
            adds tokens of its own all count.
    """
    width = found.shape[-1:]
    off = F.layer_norm(found.float(), width) - F.layer_norm(wanted.float(), width)
    errors = off.square().mean(-1)
    for mask in () if ended is None else (ended, ended.T):
        if mask.shape == errors.shape:
            return errors[~mask].mean()
    return errors.mean()


def ended_tokens(tokens: Tensor) -> Tensor:
    """Where the zeros begin that pad texts ``(N, tokens)``; True there."""
    last = tokens.ne(0).flip(1).cumsum(1).flip(1)
    return last == 0
