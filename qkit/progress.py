# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""How long jobs tell where they are. The library prints nothing; the command line shows it."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

Clock = Callable[[], float]
"""Gives the time in seconds."""


class Advance(Protocol):
    """Tells how far a phase is."""

    def __call__(self, done: int, /, **figures: float) -> None:
        """Count ``done`` items just finished; ``figures`` are the last ones by name, if any."""
        ...


class Progress(Protocol):
    """Something that can show the phases of a job."""

    def phase(self, name: str, total: int | None) -> AbstractContextManager[Advance]:
        """Enter a phase of ``total`` items (None where unknown); leave it on exit."""
        ...


class Silent:
    """The default: shows nothing."""

    @contextmanager
    def phase(self, name: str, total: int | None) -> Iterator[Advance]:
        """Enter a phase that nobody watches."""
        yield ignore


def ignore(done: int, /, **figures: float) -> None:
    """Tell nobody how far a phase is."""


@dataclass(slots=True)
class Phase:
    """How far a phase is, for those who show it.

    Attributes:
        name: what is done.
        total: number of items; None where unknown.
        clock: tells the time.
        done: items finished.
        figures: the last ones by name.
        start: when it began.
        moved: when items were last counted.
        end: when it ended; None while it runs.
        failed: it ended by an error or an interrupt.
    """

    name: str
    total: int | None
    clock: Clock = time.monotonic
    done: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    start: float = field(init=False)
    moved: float = field(init=False)
    end: float | None = field(init=False, default=None)
    failed: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.start = self.moved = self.clock()

    def advance(self, done: int, /, **figures: float) -> None:
        """Count items and keep the last figures."""
        self.done += done
        self.figures = self.figures | figures
        self.moved = self.clock()

    @property
    def seconds(self) -> float:
        """Time since the start, or all the time it took."""
        return (self.clock() if self.end is None else self.end) - self.start

    @property
    def rate(self) -> float | None:
        """Items per second up to the last one: it stands still while nothing is counted."""
        spent = (self.moved if self.end is None else self.end) - self.start
        return self.done / spent if self.done and spent > 0 else None

    @property
    def left(self) -> float | None:
        """Seconds left at that rate; None where it or the total is unknown."""
        if self.total is None or not self.rate:
            return None
        return max(0.0, (self.total - self.done) / self.rate - (self.clock() - self.moved))
