# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The partition rule (Eq 7): what its blocks look like whatever the dependencies are."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrators.entropy.partition import fixed, grow, shuffled, threshold_of

dependencies = st.lists(st.floats(0, 6), max_size=30)
limits = st.integers(1, 6)


def covers(blocks, layers):
    """Whether the blocks hold every layer once, in order, none of them empty."""
    together = [layer for block in blocks for layer in block]
    return together == list(range(layers)) and all(len(block) for block in blocks)


def average(found, block, stop):
    """Mean dependency of the pairs in layers ``block.start`` to ``stop - 1``."""
    return math.fsum(found[block.start : stop - 1]) / (stop - 1 - block.start)


@given(dependencies, st.floats(-1, 7), limits)
def test_blocks_cover_every_layer_once_within_the_limit(found, threshold, limit):
    blocks = grow(found, threshold, limit)
    assert covers(blocks, len(found) + 1)
    assert max(map(len, blocks)) <= limit


@given(dependencies, st.floats(0, 6), limits)
def test_the_average_of_every_block_exceeds_the_threshold(found, threshold, limit):
    for block in grow(found, threshold, limit):
        for stop in range(block.start + 2, block.stop + 1):
            assert average(found, block, stop) > threshold


@given(dependencies, st.floats(0, 6), limits)
def test_no_block_could_have_taken_one_more_layer(found, threshold, limit):
    for block in grow(found, threshold, limit)[:-1]:
        full = len(block) == limit
        assert full or average(found, block, block.stop + 1) <= threshold


@given(dependencies, st.floats(0, 6))
def test_a_limit_of_one_gives_single_layers(found, threshold):
    assert grow(found, threshold, 1) == tuple(range(i, i + 1) for i in range(len(found) + 1))


def test_thresholds_beyond_all_dependencies():
    found = [1.0, 2.0, 3.0, 4.0]
    assert grow(found, 4.0, 3) == tuple(range(i, i + 1) for i in range(5))
    assert grow(found, 0.5, 3) == (range(3), range(3, 5))
    assert grow(found, 0.5, 99) == (range(5),)
    assert grow([], 1.0, 3) == (range(1),)


def test_a_threshold_must_be_exceeded_not_met():
    assert grow([1.0], 1.0, 3) == (range(1), range(1, 2))
    assert grow([1.0], math.nextafter(1.0, 0.0), 3) == (range(2),)


def test_the_average_may_carry_a_weak_pair():
    assert grow([3.0, 1.5, 0.1], 2.0, 4) == (range(3), range(3, 4))


@pytest.mark.parametrize("limit", [0, -2])
def test_a_limit_below_one_is_refused(limit):
    with pytest.raises(ValueError, match=rf"^at most {limit} layers a block .*Use 1 or more"):
        grow([1.0], 0.5, limit)


@given(st.integers(0, 40), st.integers(1, 9))
def test_fixed_blocks_are_full_but_for_the_last(layers, size):
    blocks = fixed(layers, size)
    assert covers(blocks, layers)
    assert all(len(block) == size for block in blocks[:-1])
    assert all(len(block) <= size for block in blocks)


@given(dependencies, st.floats(0, 6), limits, st.integers(0, 99))
def test_shuffled_blocks_keep_their_sizes(found, threshold, limit, seed):
    blocks = grow(found, threshold, limit)
    other = shuffled(blocks, seed)
    assert covers(other, len(found) + 1)
    assert Counter(map(len, other)) == Counter(map(len, blocks))
    assert shuffled(blocks, seed) == other


def test_another_seed_shuffles_otherwise():
    blocks = grow([0.0, 5.0, 5.0, 0.0, 5.0, 0.0, 0.0], 1.0, 3)
    assert len({shuffled(blocks, seed) for seed in range(8)}) > 1


@given(st.lists(st.floats(0, 6), min_size=1, max_size=30), st.floats(0, 1))
def test_threshold_rules(found, share):
    assert threshold_of(found, "mean") == pytest.approx(np.mean(found))
    assert threshold_of(found, f"q{share}") == pytest.approx(np.quantile(found, share))
    assert threshold_of(found, share) == share


@given(st.lists(st.floats(0, 6), min_size=1, max_size=30))
def test_quantiles_end_at_the_extremes(found):
    assert threshold_of(found, "q0") == min(found)
    assert threshold_of(found, "q1") == max(found)


@pytest.mark.parametrize("rule", ["mean", "q0.75", 0, 1.5])
def test_without_dependencies_every_rule_gives_a_number(rule):
    assert threshold_of((), rule) == (0.0 if isinstance(rule, str) else rule)


@pytest.mark.parametrize("found", [(), [1.0, 2.0]])
@pytest.mark.parametrize("rule", ["foo", "", "q", "q1.5", "q-0.1", "qnan", "median"])
def test_other_rules_are_refused_with_or_without_data(rule, found):
    fact = rf"^threshold = {rule!r}\. Use 'mean', a number, or a quantile such as 'q0\.75'"
    with pytest.raises(ValueError, match=fact):
        threshold_of(found, rule)
