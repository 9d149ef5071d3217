# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""One choice for every unit, with the least loss that the limits allow: a multiple-choice knapsack.

Solved exactly by HiGHS, through ``scipy.optimize.milp``: one binary variable a unit and choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, kron

from qkit.errors import SearchError

Table = NDArray[np.float64]
"""A number for every unit and choice, ``(units, choices)``."""

Assignment = tuple[int, ...]
"""The index of the choice of every unit."""

SCALE = 1e4  # of losses, so that the solver's absolute gap of 1e-6 hides no difference that counts
ROUNDING = 1e-9  # by which a sum of costs may pass a limit, relative: that of float64 sums


@dataclass(frozen=True, slots=True)
class Cost:
    """What an assignment costs: (fixed + the sum of its parts) / per.

    Attributes:
        parts: what each choice of each unit adds.
        fixed: what is spent whatever is chosen.
        per: what the sum is divided by.
    """

    parts: Table
    fixed: float = 0.0
    per: float = 1.0

    def of(self, chosen: Sequence[int]) -> float:
        """The cost of an assignment."""
        return (self.fixed + total(self.parts, chosen)) / self.per


class Limit(NamedTuple):
    """The most that an assignment may cost."""

    cost: Cost
    most: float

    def holds(self, chosen: Sequence[int]) -> bool:
        """Whether an assignment costs no more."""
        return self.cost.of(chosen) <= self.most + ROUNDING * abs(self.most)


def total(table: Table, chosen: Sequence[int]) -> float:
    """Sum over units of the entry of the chosen column."""
    return float(table[np.arange(len(table)), list(chosen)].sum())


def solve(loss: Table, limits: Sequence[Limit] = ()) -> Assignment | None:
    """The assignment of least total loss within all limits; None where there is none.

    Args:
        loss: finite, of every unit and choice.
        limits: all hold.

    Raises:
        SearchError: the solver gave up.
    """
    units, choices = loss.shape
    rows = [LinearConstraint(kron(np.eye(units), np.ones((1, choices))), 1, 1)]
    rows += [_row(limit) for limit in limits]
    largest = float(np.abs(loss).max()) or 1.0
    while True:
        found = milp(
            SCALE * loss.ravel() / largest,
            integrality=np.ones(loss.size, dtype=np.int64),
            bounds=Bounds(0, 1),
            constraints=rows,
            options={"mip_rel_gap": 0.0},
        )
        if found.status == 2:  # infeasible
            return None
        if found.x is None or not found.success:
            message = f"the solver gave up: {found.message} Ask for a slightly different budget."
            raise SearchError(message)
        chosen = tuple(int(i) for i in found.x.reshape(units, choices).argmax(axis=1))
        if all(limit.holds(chosen) for limit in limits):
            return chosen
        rows.append(_without(chosen, loss.shape))  # within the solver's tolerance, but not ours


def least(cost: Cost, limits: Sequence[Limit] = ()) -> Assignment | None:
    """The cheapest assignment within all (other) limits; None where there is none."""
    return solve(cost.parts, limits)


def _row(limit: Limit) -> LinearConstraint:
    """The limit, in units of its largest part: the solver's tolerances are absolute."""
    parts = limit.cost.parts.ravel()
    largest = float(np.abs(parts).max()) or 1.0
    room = limit.most * (1 + ROUNDING) * limit.cost.per - limit.cost.fixed
    return LinearConstraint(csr_array(parts[None] / largest), -np.inf, room / largest)


def _without(chosen: Assignment, shape: tuple[int, int]) -> LinearConstraint:
    """Anything but this very assignment."""
    taken = np.zeros(shape)
    taken[np.arange(len(chosen)), list(chosen)] = 1
    return LinearConstraint(csr_array(taken.reshape(1, -1)), -np.inf, len(chosen) - 1)
