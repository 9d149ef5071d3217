# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The least loss for every budget: solutions along one cost, others held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qkit.allocation.budget import Budget, show_amount
from qkit.allocation.solve import Assignment, Cost, Limit, Table, least, solve
from qkit.errors import SearchError


@dataclass(frozen=True, slots=True)
class Best:
    """The best assignment for one budget.

    Attributes:
        most: the budget.
        chosen: index of the choice of every unit.
        asked: whether it is the budget that was asked for.
    """

    most: float
    chosen: Assignment
    asked: bool


def find_best(loss: Table, budgets: Sequence[Budget], costs: Sequence[Cost]) -> Assignment:
    """The assignment of least loss within all budgets.

    Args:
        loss: of every unit and choice.
        budgets: all hold.
        costs: one for each budget.

    Raises:
        SearchError: a budget cannot be met.
    """
    found = solve(loss, _limits(budgets, costs))
    if found is not None:
        return found
    for budget, cost in zip(budgets, costs, strict=True):
        check_possible(budget, cost)
    named = " and ".join(map(str, budgets))
    message = f"budgets {named} cannot be met together. Ask for more of one of them."
    raise SearchError(message)


def find_front(
    loss: Table, budgets: Sequence[Budget], costs: Sequence[Cost], count: int
) -> list[Best]:
    """The best assignment for the budget asked for, and for others from the least to the most.

    Args:
        loss: of every unit and choice.
        budgets: the first is varied, the others hold in every solution.
        costs: one for each budget.
        count: budgets between the cheapest assignment and the one of least loss.

    Returns:
        In ascending order of the budget; of equal assignments one.

    Raises:
        SearchError: a budget cannot be met.
    """
    asked = find_best(loss, budgets, costs)
    cost, others = costs[0], _limits(budgets, costs)[1:]
    ends = [found for found in (least(cost, others), solve(loss, others)) if found is not None]
    low, high = (cost.of(end) for end in ends)  # there are some: asked is one
    found = [Best(budgets[0].most, asked, asked=True)]
    for most in np.linspace(low, max(low, high), count):
        chosen = solve(loss, [Limit(cost, float(most)), *others])
        if chosen is not None and chosen not in [best.chosen for best in found]:
            found.append(Best(float(most), chosen, asked=False))
    return sorted(found, key=lambda best: (cost.of(best.chosen), best.most))


def _limits(budgets: Sequence[Budget], costs: Sequence[Cost]) -> list[Limit]:
    return [Limit(cost, budget.most) for cost, budget in zip(costs, budgets, strict=True)]


def check_possible(budget: Budget, cost: Cost) -> None:
    """Refuse a budget that even the cheapest assignment exceeds.

    Raises:
        SearchError: names the least possible.
    """
    cheapest = least(cost)
    if cheapest is not None and not Limit(cost, budget.most).holds(cheapest):
        message = (
            f"budget {budget} cannot be met: the least possible is "
            f"{show_amount(budget.kind, cost.of(cheapest))}. Ask for more, or offer fewer bits "
            "with --choices."
        )
        raise SearchError(message)
