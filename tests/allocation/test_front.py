# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The series of budgets: from the cheapest to the best, the one asked for among them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkit.allocation.budget import Budget
from qkit.allocation.front import find_front
from qkit.allocation.solve import Cost, total
from qkit.errors import SearchError

BITS = np.tile([3.0, 4.0, 8.0], (6, 1))
LOSS = np.array([[9.0, 3.0, 1.0], [5.0, 4.0, 0.5]]).repeat(3, axis=0) * np.arange(1, 7)[:, None]
COST = Cost(BITS, per=6.0)


@settings(deadline=None, max_examples=30)
@given(st.floats(3.0, 9.0))
def test_more_budget_never_gives_more_loss_and_never_is_overspent(asked):
    found = find_front(LOSS, [Budget("bits", asked)], [COST], 9)
    losses = [total(LOSS, best.chosen) for best in found]
    assert losses == sorted(losses, reverse=True)
    assert len({best.chosen for best in found}) == len(found)
    assert all(COST.of(best.chosen) <= best.most * (1 + 1e-9) for best in found)
    assert [best.most for best in found if best.asked] == [asked]


def test_it_reaches_from_the_cheapest_to_the_best():
    found = find_front(LOSS, [Budget("bits", 5.0)], [COST], 5)
    assert found[0].chosen == (0,) * 6
    assert found[-1].chosen == (2,) * 6


def test_other_budgets_hold_in_every_solution():
    size = Cost(BITS * np.arange(1, 7)[:, None], fixed=1.0)
    budgets = [Budget("bits", 6.0), Budget("size", 101.0)]
    found = find_front(LOSS, budgets, [COST, size], 9)
    assert all(size.of(best.chosen) <= 101.0 for best in found)
    assert len(found) > 2


@pytest.mark.parametrize(
    ("budgets", "fact"),
    [
        ([("bits", 2.5), ("size", 1e9)], r"bits=2\.5 cannot be met: the least possible is 3\."),
        ([("bits", 8.0), ("size", 10.0)], r"size=1e-05MB cannot .* least possible is 1\.8e-05MB"),
        ([("bits", 3.0), ("size", 20.0)], "cannot be met together"),
    ],
)
def test_what_cannot_be_met_names_the_least_possible(budgets, fact):
    against = Cost(BITS[:, ::-1])  # what is cheap in bits is dear here
    with pytest.raises(SearchError, match=fact):
        find_front(LOSS, [Budget(*budget) for budget in budgets], [COST, against], 3)
