# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a running job shows: bars on a terminal, a line now and then where there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from qkit.progress import Advance, Clock, Phase

EVERY = 10.0  # seconds between two lines of a phase
NUMBERS = (9, 6, 15, 12)  # least width of count, rate, time and figures, so that rows align
NARROW = 80  # columns below which they need not align
BAR, NAME = (5, 40), (6, 48)  # least and greatest width


class Display:
    """Shows phases as they begin, advance and end; a failing one is marked, and fails on."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    @contextmanager
    def phase(self, name: str, total: int | None) -> Iterator[Advance]:
        """Show one more phase."""
        # a file's name may be part of it, with line breaks and escape codes
        printable = "".join(c if c.isprintable() else " " for c in name)
        phase = Phase(printable, total, self.clock)

        def advance(done: int, /, **figures: float) -> None:
            phase.advance(done, **figures)
            self.advanced(phase)

        self.began(phase)
        try:
            yield advance
        except BaseException:
            phase.failed = True
            raise
        finally:
            phase.end = self.clock()
            self.ended(phase)

    def began(self, phase: Phase) -> None:
        """Show a phase that starts."""

    def advanced(self, phase: Phase) -> None:
        """Show that items were counted."""

    def ended(self, phase: Phase) -> None:
        """Show a phase that finished or failed."""


class Lines(Display):
    """Plain lines for logs: one when a phase ends, and one now and then while it lasts."""

    def __init__(self, file: TextIO, clock: Clock = time.monotonic) -> None:
        super().__init__(clock)
        self.file = file
        self.last = clock()

    def began(self, phase: Phase) -> None:
        """Say nothing yet."""
        self.last = phase.start

    def advanced(self, phase: Phase) -> None:
        """Print how far it is, unless a line was just printed or the last one is near."""
        if phase.total is None or phase.left is None or phase.done >= phase.total:
            return
        if phase.moved - self.last >= EVERY:
            self.last = phase.moved
            left = f"{span(phase.left)} left"
            self._print(phase, f"{phase.done} of {phase.total}", pace(phase), left, last(phase))

    def ended(self, phase: Phase) -> None:
        """Print how long it took, or where it stopped."""
        count = str(phase.done) if phase.done or phase.total is not None else ""
        if phase.total not in (None, phase.done):
            count += f" of {phase.total}"
        at, took = f" at {count}" if count else "", span(phase.seconds)
        if phase.failed:
            self._print(phase, f"stopped{at} after {took}")
        else:
            self._print(phase, f"{count} in {took}" if count else took, pace(phase), last(phase))

    def _print(self, phase: Phase, *parts: str) -> None:
        print(f"{phase.name}: {', '.join(filter(None, parts))}", file=self.file, flush=True)


class Bars(Display):
    """Bars of the running phases at the bottom of a terminal; those that ended scroll away.

    A bar is one line: the numbers take what they need, the name and the bar share what is left.
    They show while ``live`` is entered.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        super().__init__(clock)
        self.console = console
        self.running: list[Phase] = []
        self.spinner = Spinner("dots")
        self.live = Live(self, console=console, transient=True, refresh_per_second=10)

    def began(self, phase: Phase) -> None:
        """Add a bar."""
        self.running.append(phase)

    def ended(self, phase: Phase) -> None:
        """Turn the bar into a line that stays."""
        self.running.remove(phase)
        self.console.print(self._row(phase))

    def __rich__(self) -> Group:
        """All that run, as they are now."""
        rows = map(self._row, list(self.running))
        return Group(*rows, "")  # an empty line to hold the cursor, and the ^C of an interrupt

    def _row(self, phase: Phase) -> Table:
        numbers = (_count(phase), pace(phase), _time(phase), last(phase, " "))
        least = NUMBERS if self.console.width >= NARROW else (1, 1, 1, 1)
        kept = [max(len(text), some) for text, some in zip(numbers, least, strict=True)]
        room = self.console.width - sum(kept) - 7  # the mark, and six spaces between columns
        name = min(max(room - max(BAR[0], room // 6), NAME[0]), NAME[1])
        bar = min(max(room - name, BAR[0]), BAR[1])
        grid = Table.grid(padding=(0, 1))
        for width in (1, name, bar, *kept):
            grid.add_column(width=width, no_wrap=True)
        texts = [Text(text) for text in (phase.name, *numbers)]  # no markup: names are the user's
        grid.add_row(self._mark(phase), texts[0], _bar(phase, bar), *texts[1:])
        return grid

    def _mark(self, phase: Phase) -> Spinner | Text:
        if phase.end is None:
            return self.spinner
        return Text("✗", "red") if phase.failed else Text("✓", "green")


def pace(phase: Phase) -> str:
    """Items per second, where known: "20.8/s"."""
    return f"{number(phase.rate)}/s" if phase.rate else ""


def last(phase: Phase, between: str = ", ") -> str:
    """The last figures: "cosine 0.982"."""
    named = (f"{name.replace('_', ' ')} {number(v)}" for name, v in phase.figures.items())
    return between.join(named)


def number(value: float) -> str:
    """Three digits that count: 0.982, 20.8, 1234."""
    return f"{value:#.3g}".rstrip(".") if abs(value) < 999.5 else f"{value:.0f}"


def span(seconds: float) -> str:
    """A time with its unit: "7.7 s", "2:05 min", "1:02:05 h"."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    return f"{clock_face(seconds)} {'min' if round(seconds) < 3600 else 'h'}"


def clock_face(seconds: float) -> str:
    """A time as a clock shows it: 0:07, 2:05, 1:02:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _bar(phase: Phase, width: int) -> ProgressBar:
    total, done = phase.total, float(phase.done)
    if total is None and phase.end is not None:
        total, done = 1, float(not phase.failed)
    styles = ("red", "red") if phase.failed else ("bar.complete", "bar.finished")
    return ProgressBar(total, done, width, complete_style=styles[0], finished_style=styles[1])


def _count(phase: Phase) -> str:
    if phase.total is None:
        return str(phase.done) if phase.done else ""
    return f"{phase.done}/{phase.total}"


def _time(phase: Phase) -> str:
    if phase.failed:
        return f"{span(phase.seconds)}, stopped"
    if phase.end is not None:
        return f"took {span(phase.seconds)}"
    left = f", {clock_face(phase.left)} left" if phase.left is not None else ""
    return clock_face(phase.seconds) + left
