# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The knapsack against trying everything, and what must hold of any solution."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkit.allocation.solve import Cost, Limit, least, solve, total


def tables(units, choices, most):
    numbers = st.lists(st.integers(0, most), min_size=choices, max_size=choices)
    rows = st.lists(numbers, min_size=units, max_size=units)
    return rows.map(lambda found: np.array(found, dtype=float))


@st.composite
def problems(draw, limits=1):
    units, choices = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    loss = draw(tables(units, choices, 1000)) * draw(st.sampled_from([1e-6, 1.0, 1e4]))
    found = []
    for _ in range(limits):
        cost = Cost(draw(tables(units, choices, 10**6)), draw(st.integers(0, 99)), 8.0)
        found.append(Limit(cost, draw(st.integers(0, 10**6 * units)) / 8))
    return loss, found


def brute(loss, limits):
    """The least loss of all assignments within the limits; None where there is none."""
    units, choices = loss.shape
    every = itertools.product(range(choices), repeat=units)
    fitting = [chosen for chosen in every if all(limit.holds(chosen) for limit in limits)]
    return min((total(loss, chosen) for chosen in fitting), default=None)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2).flatmap(problems))
def test_no_other_assignment_is_better(problem):
    loss, limits = problem
    chosen, best = solve(loss, limits), brute(loss, limits)
    if best is None:
        assert chosen is None
    else:
        assert all(limit.holds(chosen) for limit in limits)
        assert total(loss, chosen) == pytest.approx(best, rel=1e-9, abs=1e-15)


@settings(deadline=None, max_examples=50)
@given(problems(), st.integers(0, 10**6))
def test_a_larger_budget_never_costs_more_loss(problem, more):
    loss, (limit,) = problem
    first, second = solve(loss, [limit]), solve(loss, [limit._replace(most=limit.most + more)])
    if first is not None:
        assert total(loss, second) <= total(loss, first) * (1 + 1e-9)


def test_a_choice_that_is_dearer_and_worse_is_never_taken():
    loss, cost = np.array([[1.0, 2.0], [3.0, 4.0]]), Cost(np.array([[1.0, 5.0], [1.0, 5.0]]))
    assert solve(loss, [Limit(cost, 100.0)]) == least(cost) == (0, 0)


def test_a_budget_that_is_exactly_the_cost_is_met_and_one_byte_less_is_not():
    cost = Cost(np.full((70, 3), [3.0, 4.0, 5.0]) * 12_345_679, fixed=17.0)
    everywhere = (1,) * 70
    loss = np.tile([2.0, 1.0, 1.0 + 1e-7], (70, 1))
    assert solve(loss, [Limit(cost, cost.of(everywhere))]) == everywhere
    fewer = solve(loss, [Limit(cost, cost.of(everywhere) * (1 - 1e-8))])
    assert sorted(fewer) == [0, *[1] * 69]


def test_a_cost_has_a_fixed_part_and_is_shared():
    assert Cost(np.array([[1.0, 2.0], [3.0, 4.0]]), 10.0, 2.0).of((1, 0)) == 7.5
