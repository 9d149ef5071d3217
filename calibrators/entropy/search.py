# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Search combinations: one candidate for every variable, least error of all together.

Pure: what the variables are and how an error comes about is the caller's. ``error(choice, bound)``
gives the error of a choice, or anything above ``bound`` once it is known to exceed it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Choice = tuple[int, ...]
Error = Callable[[Choice, float], float]


class Found(NamedTuple):
    """The best choice, its error, the error of the first start, and evaluations made."""

    choice: Choice
    error: float
    start: float
    evaluations: int


def search(counts: Sequence[int], error: Error, limit: int, sweeps: int, restarts: int) -> Found:
    """Every combination where there are at most ``limit``, else coordinate descent.

    The first candidate of every variable is where descent starts, so nothing worse is returned.

    Args:
        counts: candidates of each variable, in the order in which descent visits them.
        error: what is minimised.
        limit: most combinations that are tried one by one.
        sweeps: most rounds over all variables from one start.
        restarts: further starts, at random; seeded by their number.
    """
    if math.prod(counts) <= limit:
        return exhaustive(counts, error)
    best = descend(counts, error, (0,) * len(counts), sweeps)
    for seed in range(restarts):
        rng = np.random.default_rng(seed)
        start = tuple(int(rng.integers(count)) for count in counts)
        other = descend(counts, error, start, sweeps)
        made = best.evaluations + other.evaluations
        better = other if other.error < best.error else best
        best = better._replace(start=best.start, evaluations=made)
    return best


def exhaustive(counts: Sequence[int], error: Error) -> Found:
    """The best of all combinations; the first candidates win ties."""
    choices = itertools.product(*(range(count) for count in counts))
    best = next(choices)
    least = start = error(best, math.inf)
    made = 1
    for choice in choices:
        value = error(choice, least)
        made += 1
        if value < least:
            best, least = choice, value
    return Found(best, least, start, made)


def descend(counts: Sequence[int], error: Error, start: Choice, sweeps: int) -> Found:
    """Improve one variable at a time until a round changes nothing, at most ``sweeps`` rounds."""
    best, made = start, 1
    least = first = error(start, math.inf)
    for _ in range(sweeps):
        before = best
        for place, count in enumerate(counts):
            for candidate in range(count):
                if candidate == best[place]:
                    continue
                choice = (*best[:place], candidate, *best[place + 1 :])
                value = error(choice, least)
                made += 1
                if value < least:
                    best, least = choice, value
        if best == before:
            break
    return Found(best, least, first, made)
