# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""How much an error in the stream moves the embedding, against the full Jacobian."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.functional import jacobian

from qkit.calibration.bench import Bench, Rig
from qkit.calibration.importance import FLOOR, Importance, measure_importance
from qkit.calibration.observe import Batch
from qkit.graph.stages import Stage

WIDTH, TOKENS, OUT = 5, 3, 4


class Residual(nn.Module):
    """One block: the stream plus a branch that mixes tokens and channels."""

    def __init__(self):
        super().__init__()
        self.channels = nn.Linear(WIDTH, WIDTH)
        self.tokens = nn.Linear(TOKENS, TOKENS)

    def forward(self, x):
        return x + torch.tanh(self.tokens(self.channels(x).mT).mT)


class Tower(nn.Module):
    """Three blocks, then a weighted mean over the tokens and a projection."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Residual() for _ in range(3))
        self.weights = nn.Parameter(torch.tensor([1.0, 0.3, 0.0]))
        self.head = nn.Linear(WIDTH, OUT)

    def rest(self, x, start):
        """The embedding of a stream that arrives at block ``start``."""
        for block in self.blocks[start:]:
            x = block(x)
        return self.head((x * self.weights[:, None]).sum(-2))

    def encode_image(self, x):
        return self.rest(x, 0)

    encode_text = encode_image


@pytest.fixture
def tower() -> Tower:
    torch.manual_seed(0)
    return Tower()


@pytest.fixture
def rig(tower, normal) -> Iterator[Rig]:
    """The toy tower on two batches, of two samples and of one."""
    stages = tuple(
        Stage(f"blocks.{i}", "image", i, block, block, block, ())
        for i, block in enumerate(tower.blocks)
    )
    batches = [Batch(normal(n, TOKENS, WIDTH), None) for n in (2, 1)]
    found, _ = Bench(tower, (), {"block": stages}, lambda _: batches).rigs("block", 3)
    yield found
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tower.modules())


def jacobians(tower, rig):
    """By stage and batch, of the normalized embedding: ``(N, OUT, TOKENS, WIDTH)``."""
    stream = rig.samples
    for number, block in enumerate(tower.blocks):
        with torch.no_grad():
            stream = [block(x) for x in stream]

        def embed(x, start=number + 1):
            return F.normalize(tower.rest(x, start), dim=-1)

        yield [torch.stack([jacobian(embed, one) for one in x]) for x in stream]


def factors(squares):
    """Means over channels and over tokens of ``(N, TOKENS, WIDTH)`` batches, each of mean 1."""
    tokens = [s.mean(-1, keepdim=True) for s in squares]
    channels = torch.cat(squares).mean((0, 1))
    mean = torch.cat(tokens).mean()
    return [t / mean + FLOOR for t in tokens], channels / channels.mean() + FLOOR


def same(importance, expected, **tolerance):
    tokens, channels = expected
    torch.testing.assert_close(importance.channels, channels, **tolerance)
    for mine, other in zip(importance.tokens, tokens, strict=True):
        torch.testing.assert_close(mine, other, **tolerance)


def test_equals_the_full_jacobian_along_the_same_directions(tower, rig):
    generator = torch.Generator().manual_seed(7)
    directions = [
        torch.stack([torch.randn(len(x), OUT, generator=generator) for _ in range(2)])
        for x in rig.samples
    ]
    found = measure_importance(rig, 2, 7)
    assert len(found) == 3
    for importance, parts in zip(found, jacobians(tower, rig), strict=True):
        pairs = zip(directions, parts, strict=True)
        squares = [torch.einsum("pno,notc->pntc", v, j).square().mean(0) for v, j in pairs]
        same(importance, factors(squares))


def test_many_directions_give_the_diagonal_of_the_squared_jacobian(tower, rig):
    found = measure_importance(rig, 2000, 0)
    for importance, parts in zip(found, jacobians(tower, rig), strict=True):
        same(importance, factors([j.square().sum(1) for j in parts]), rtol=0.15, atol=0.02)


def test_a_place_that_nothing_reads_counts_a_little(rig):
    last = measure_importance(rig, 2, 0)[-1]
    for tokens in last.tokens:
        assert tokens[:, 2].flatten().tolist() == pytest.approx([FLOOR] * len(tokens))
        assert bool((tokens[:, 0] > 0.5).all())


def test_factors_have_mean_one_and_the_same_seed_gives_the_same(rig):
    first, again, other = (measure_importance(rig, 2, seed) for seed in (1, 1, 2))
    for one, two, three in zip(first, again, other, strict=True):
        assert float(one.channels.mean()) == pytest.approx(1 + FLOOR)
        assert float(torch.cat(one.tokens).mean()) == pytest.approx(1 + FLOOR)
        assert torch.equal(one.channels, two.channels)
        assert not torch.equal(one.channels, three.channels)


def test_nothing_is_left_behind_in_the_tower(tower, rig):
    measure_importance(rig, 1, 0)
    assert all(p.grad is None for p in tower.parameters())
    assert all(p.requires_grad for p in tower.parameters())


def test_the_error_is_a_weighted_sum_of_squares(normal):
    tokens, channels = [normal(2, 3, 1).abs(), normal(1, 3, 1).abs()], normal(5).abs()
    importance = Importance(tokens, channels)
    for number, n in enumerate((2, 1)):
        off = normal(n, 3, 5)
        expected = sum(
            float(off[i, j, k] ** 2 * tokens[number][i, j, 0] * channels[k])
            for i in range(n)
            for j in range(3)
            for k in range(5)
        )
        assert importance.error(number, off) == pytest.approx(expected, rel=1e-5)


def test_the_even_one_is_the_plain_squared_error(normal):
    stream = [normal(2, 3, 5), normal(1, 3, 5)]
    even = Importance.even(stream)
    for number, off in enumerate(stream):
        assert even.error(number, off) == pytest.approx(float(off.square().sum()), rel=1e-6)
