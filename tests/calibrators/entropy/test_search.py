# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The search over combinations: exact where it is small, a descent where it is not."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrators.entropy.search import descend, exhaustive, search

shapes = st.lists(st.integers(1, 4), max_size=4)
seeds = st.integers(0, 999)


class Table:
    """An error for every choice, which counts and checks what it is asked."""

    def __init__(self, values, bounded=False):
        self.values = np.asarray(values)
        self.bounded = bounded
        self.asked = []

    def __call__(self, choice, bound):
        self.asked.append(choice)
        value = float(self.values[choice])
        return math.inf if self.bounded and value > bound else value


def table(shape, seed, levels=None):
    """Random errors; few ``levels`` give ties."""
    rng = np.random.default_rng(seed)
    return rng.integers(levels, size=shape) / 1.0 if levels else rng.random(shape)


def separable(shape, seed):
    """A sum of one term for every variable: descent cannot fail."""
    rng = np.random.default_rng(seed)
    total = np.zeros(shape)
    for axis, count in enumerate(shape):
        total += rng.random(count).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return total


@given(shapes, seeds, st.sampled_from([None, 3]))
def test_exhaustive_finds_the_first_of_the_best(shape, seed, levels):
    values = table(shape, seed, levels)
    found = exhaustive(shape, Table(values))
    choices = list(itertools.product(*map(range, shape)))
    assert found.choice == min(choices, key=lambda choice: values[choice])
    assert found.error == values.min()
    assert found.start == values[(0,) * len(shape)]
    assert found.evaluations == len(choices)


@given(shapes, seeds, st.sampled_from([None, 3]), st.integers(0, 3))
def test_an_error_that_is_given_up_early_changes_nothing(shape, seed, levels, restarts):
    values = table(shape, seed, levels)
    for limit in (1, 999):
        whole = search(shape, Table(values), limit, 3, restarts)
        assert search(shape, Table(values, bounded=True), limit, 3, restarts) == whole


@given(shapes, seeds, st.integers(1, 4), st.integers(0, 3), st.integers(0, 20))
def test_never_worse_than_the_start(shape, seed, sweeps, restarts, limit):
    values = table(shape, seed)
    found = search(shape, Table(values), limit, sweeps, restarts)
    assert found.start == values[(0,) * len(shape)]
    assert found.error == values[found.choice] <= found.start


@given(shapes, seeds)
def test_descent_solves_a_separable_problem_in_one_sweep(shape, seed):
    values = separable(shape, seed)
    found = descend(shape, Table(values), (0,) * len(shape), 1)
    assert found.error == pytest.approx(values.min())


@given(shapes, seeds)
def test_descent_ends_where_no_single_change_helps(shape, seed):
    values = table(shape, seed)
    found = descend(shape, Table(values), (0,) * len(shape), 99)
    for place, count in enumerate(shape):
        for other in range(count):
            near = (*found.choice[:place], other, *found.choice[place + 1 :])
            assert values[near] >= found.error


@given(shapes, seeds)
def test_descent_counts_its_evaluations_and_repeats_none_within_a_step(shape, seed):
    errors = Table(table(shape, seed))
    found = descend(shape, errors, (0,) * len(shape), 99)
    assert found.evaluations == len(errors.asked)
    assert all(a != b for a, b in itertools.pairwise(errors.asked))


def test_more_sweeps_go_further():
    values = np.full((3, 3), 9.0)
    values[0, 0], values[0, 1], values[1, 1], values[1, 2], values[2, 2] = 5, 4, 3, 2, 1
    found = [descend((3, 3), Table(values), (0, 0), sweeps).error for sweeps in (1, 2, 3)]
    assert found == [4, 2, 1]


def test_descent_stops_after_a_round_without_change():
    errors = Table(separable((3, 3, 3), 0))
    assert descend((3, 3, 3), errors, (0, 0, 0), 99).evaluations == 1 + 2 * 6


@settings(max_examples=30)
@given(st.lists(st.integers(2, 4), min_size=2, max_size=3), seeds)
def test_descent_with_many_restarts_finds_what_exhaustive_finds(shape, seed):
    values = table(shape, seed)
    assert search(shape, Table(values), 1, 99, 60).choice == exhaustive(shape, Table(values)).choice


def test_a_restart_leaves_a_local_minimum():
    values = np.array([[1.0, 5.0], [5.0, 0.0]])
    assert search((2, 2), Table(values), 1, 9, 0).error == 1.0
    found = search((2, 2), Table(values), 1, 9, 8)
    assert (found.choice, found.error, found.start) == ((1, 1), 0.0, 1.0)


def test_restarts_are_the_same_every_time_and_all_counted():
    errors = Table(table((4, 4, 4), 5))
    first = search((4, 4, 4), errors, 1, 2, 3)
    assert first.evaluations == len(errors.asked)
    assert search((4, 4, 4), Table(errors.values), 1, 2, 3) == first


@pytest.mark.parametrize(("limit", "evaluations"), [(12, 12), (11, 1 + 2 * 5)])
def test_the_limit_is_on_the_number_of_combinations(limit, evaluations):
    errors = Table(separable((3, 4), 1))
    assert search((3, 4), errors, limit, 2, 0).evaluations == evaluations


def test_without_variables_there_is_one_choice():
    found = search((), Table(np.array(3.0)), 125, 1, 2)
    assert found == ((), 3.0, 3.0, 1)
