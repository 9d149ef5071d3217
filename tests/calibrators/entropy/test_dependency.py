# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The dependency between layers: a conditional entropy, against one counted the long way."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from calibrators.entropy import dependency
from calibrators.entropy.dependency import Dependency, soft_assignment

seeds = st.integers(0, 999)
levels = st.sampled_from([4, 8, 16])


def by_definition(before, after, counts):
    """H(after | before) of Eq 4 and 5, distances in steps, value by value in float64."""

    def soft(x, count):
        weights = [math.exp(-((x - level) ** 2)) for level in range(count)]
        return [weight / sum(weights) for weight in weights]

    joint = np.zeros(counts)
    for x, y in zip(before, after, strict=True):
        p, q = soft(x, counts[0]), soft(y, counts[1])
        for a, b in itertools.product(*map(range, counts)):
            joint[a, b] += p[a] * q[b] / len(before)
    return stats.entropy(joint.ravel()) - stats.entropy(joint.sum(1))


def measure(counts, *batches):
    """The class under test, on pairs of tensors."""
    found = Dependency(counts)
    for before, after in batches:
        found.update(before, after)
    return found.value


def draw(seed, count, size=400):
    """Related positions on ``count`` levels, some of them beyond the ends."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(size, generator=generator) * (count + 1) - 1
    noise = torch.randn(size, generator=generator)
    return x, (x + noise * (seed % 4)).clamp(-1, count)


@settings(max_examples=15, deadline=None)
@given(seeds, st.sampled_from([(4, 4), (4, 8), (8, 4)]))
def test_equals_the_definition(seed, counts):
    x, y = draw(seed, min(counts), 60)
    expected = by_definition(x.tolist(), y.tolist(), counts)
    assert measure(counts, (x, y)) == pytest.approx(expected, rel=1e-4)


def test_soft_assignment_by_hand():
    near, far = math.exp(-0.25), math.exp(-2.25)
    total = 2 * near + 2 * far
    expected = torch.tensor([[far, near, near, far]]) / total
    torch.testing.assert_close(soft_assignment(torch.tensor([1.5]), 4), expected)


@given(seeds, levels)
def test_soft_assignments_are_probabilities_that_peak_at_the_nearest_level(seed, count):
    x, _ = draw(seed, count, 50)
    found = soft_assignment(x, count)
    torch.testing.assert_close(found.sum(1), torch.ones(50))
    assert torch.equal(found.argmax(1), x.round().clamp(0, count - 1).long())


@settings(deadline=None)
@given(seeds, levels)
def test_lies_between_nothing_and_all_levels_alike(seed, count):
    x, y = draw(seed, count)
    assert 0 <= measure((count, count), (x, y)) <= math.log(count)


@settings(deadline=None)
@given(seeds, levels, st.integers(2, 5))
def test_more_tokens_of_the_same_kind_change_nothing(seed, count, times):
    x, y = draw(seed, count)
    once = measure((count, count), (x, y))
    assert measure((count, count), (x.repeat(times), y.repeat(times))) == pytest.approx(once, 1e-5)


@settings(deadline=None)
@given(seeds, levels)
def test_neither_the_order_nor_the_cut_of_the_batches_counts(seed, count):
    x, y = draw(seed, count)
    parts = list(zip(x.split(90), y.split(90), strict=True))
    whole = measure((count, count), (x, y))
    assert measure((count, count), *parts) == pytest.approx(whole, rel=1e-5)
    assert measure((count, count), *reversed(parts)) == pytest.approx(whole, rel=1e-5)


def test_nor_how_many_entries_are_held_at_a_time(monkeypatch):
    x, y = draw(3, 16)
    whole = measure((16, 16), (x, y))
    monkeypatch.setattr(dependency, "AT_ONCE", 100)
    assert measure((16, 16), (x.reshape(20, 20), y.reshape(20, 20))) == pytest.approx(whole, 1e-5)


def test_independent_uniform_values_are_as_uncertain_as_the_levels_allow():
    generator = torch.Generator().manual_seed(0)
    for count in (4, 16, 64):
        x, y = (torch.randint(count, (40_000,), generator=generator).float() for _ in range(2))
        found = measure((count, count), (x, y))
        assert 0.97 * math.log(count) < found <= math.log(count)


def test_a_copy_leaves_only_what_the_soft_assignment_blurs():
    x = torch.arange(256.0).repeat(8)
    blur = stats.entropy(soft_assignment(torch.tensor([128.0]), 256)[0].double())
    found = measure((256, 256), (x, x))
    assert blur < found < 2 * blur
    assert found < 0.3 * math.log(256)
    shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    assert measure((256, 256), (x, shuffled)) > 2 * found


def test_a_mirror_image_is_as_good_as_a_copy():
    x, _ = draw(1, 16)
    assert measure((16, 16), (x, 15 - x)) == pytest.approx(measure((16, 16), (x, x)), rel=1e-5)


def test_it_grows_with_the_noise_between_the_layers():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4000, generator=generator) * 63
    noise = torch.randn(4000, generator=generator)
    found = [measure((64, 64), (x, (x + noise * k).clamp(-1, 64))) for k in (0, 2, 8, 30)]
    assert found == sorted(found)
    assert found[-1] > found[0] + 1


def test_layers_of_other_shapes_give_the_marginal_entropy():
    x, y = draw(2, 8, 300)
    expected = stats.entropy(soft_assignment(y, 8).mean(0).double())
    assert measure((16, 8), (x[:100], y)) == pytest.approx(expected, rel=1e-4)


def test_before_any_data_there_is_none():
    assert Dependency((4, 4)).value == 0.0
