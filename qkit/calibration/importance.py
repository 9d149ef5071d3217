# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""How much an error at some place of the residual stream moves the embedding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkit.calibration.bench import Rig, Stream
from qkit.calibration.running import switched

FLOOR = 1e-3  # of the mean: a place that no gradient reaches still counts a little


@dataclass(frozen=True, slots=True)
class Importance:
    """Weights of a squared error at the end of one stage, mean 1 in both factors.

    Attributes:
        tokens: ``(..., 1)`` one tensor for each batch of samples.
        channels: ``(channels,)``.
        magnitude: root of the mean squared gradient that both factors are relative to.
    """

    tokens: Stream
    channels: Tensor
    magnitude: float = 1.0

    def error(self, number: int, difference: Tensor) -> float:
        """Weighted sum of squares of one batch's ``difference``."""
        by_token = (difference.square() @ self.channels[:, None]) * self.tokens[number]
        return float(by_token.sum())

    @classmethod
    def even(cls, stream: Stream) -> Importance:
        """The plain squared error: every value counts alike."""
        channels = stream[0].new_ones(stream[0].shape[-1])
        return cls([torch.ones_like(x[..., :1]) for x in stream], channels)


def measure_importance(rig: Rig, probes: int, seed: int) -> list[Importance]:
    """One importance for the end of every stage, from the float tower.

    The embedding moves by J e for an error e, where J is its Jacobian; E (v^T J)^2 over random
    v ~ N(0, I) is the diagonal of J^T J. Its mean over channels and over tokens is kept, so
    that it takes no more memory than two vectors a sample.

    Args:
        rig: a tower with its samples.
        probes: random directions per batch; each costs a backward pass.
        seed: of the directions.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens: list[Stream] = [[] for _ in rig.stages]
    channels: list[Tensor | None] = [None] * len(rig.stages)
    points = list(rig.points.values())
    for batch in rig.samples:
        with switched(points, False), torch.enable_grad(), _boundaries(rig) as ends:
            embedding = F.normalize(rig.encode(batch), dim=-1)
            for i, squares in enumerate(_squares(embedding, ends, probes, generator)):
                tokens[i].append(squares.mean(-1, keepdim=True))
                total = squares.flatten(0, -2).sum(0)
                before = channels[i]
                channels[i] = total if before is None else before + total
    return [_normalised(t, c) for t, c in zip(tokens, channels, strict=True) if c is not None]


def _squares(
    embedding: Tensor, ends: Sequence[Tensor], probes: int, generator: torch.Generator
) -> list[Tensor]:
    """Mean over probes of the squared gradient at each end."""
    sums = [torch.zeros_like(end) for end in ends]
    for probe in range(probes):
        v = torch.randn(embedding.shape, generator=generator).to(embedding)
        last = probe == probes - 1
        grads = torch.autograd.grad(embedding, list(ends), v, retain_graph=not last)
        for total, grad in zip(sums, grads, strict=True):
            total += grad.square() / probes
    return sums


def _normalised(tokens: Stream, channels: Tensor) -> Importance:
    mean = torch.cat([t.detach().flatten() for t in tokens]).mean()
    return Importance(
        [t.detach() / mean + FLOOR for t in tokens],
        channels.detach() / channels.mean() + FLOOR,
        float(mean.sqrt()),
    )


@contextmanager
def _boundaries(rig: Rig) -> Iterator[list[Tensor]]:
    """Collect the stream at the end of every stage, with a graph that starts at the first."""
    ends: list[Tensor] = []

    def start(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return (args[0].detach().requires_grad_(), *args[1:]), kwargs

    def arrive(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ends.append(args[0])

    def leave(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        ends.append(output)

    first, *others = rig.stages
    handles = [first.entry.register_forward_pre_hook(start, with_kwargs=True)]
    handles += [s.entry.register_forward_pre_hook(arrive, with_kwargs=True) for s in others]
    handles.append(rig.stages[-1].module.register_forward_hook(leave))
    try:
        yield ends
    finally:
        for handle in handles:
            handle.remove()
