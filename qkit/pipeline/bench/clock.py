# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Time jobs in turn, so that whatever slows the machine down slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from qkit.progress import Advance
from qkit.report.speed import Timing


class Reading(NamedTuple):
    """Seconds of one call: processor time of all threads, and time on the clock."""

    cpu: float
    wall: float


def interleaved(
    works: Mapping[str, Callable[[], Any]], warmup: int, repeats: int, advance: Advance
) -> dict[str, list[Reading]]:
    """Readings of all works, A B C A B C ..., after ``warmup`` rounds that do not count."""
    found: dict[str, list[Reading]] = {name: [] for name in works}
    for turn in range(warmup + repeats):
        for name, work in works.items():
            cpu, wall = time.process_time(), time.perf_counter()
            work()
            reading = Reading(time.process_time() - cpu, time.perf_counter() - wall)
            if turn >= warmup:
                found[name].append(reading)
        advance(1)
    return found


def summarize(values: Sequence[float]) -> Timing:
    """Median and distance between the quartiles; no distance of a single value."""
    if len(values) < 2:
        return Timing(values[0], 0.0)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Timing(statistics.median(values), high - low)


@contextmanager
def threads(count: int | None) -> Iterator[int]:
    """Give torch so many threads for a while; None leaves them. Yields how many there are."""
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
