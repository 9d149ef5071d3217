# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""How the command line speaks: results to stdout, everything else to stderr, errors in one line."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from qkit.errors import QkitError, QkitWarning
from qkit.progress import Advance, Silent
from qkit.progress import Progress as ProgressProtocol

P = ParamSpec("P")
FAILED, INTERRUPTED = 1, 130


def stdout() -> Console:
    """Console for results; full width of the terminal, 80 columns where there is none."""
    return Console(highlight=False, soft_wrap=False)


def stderr() -> Console:
    """Console for notes, progress and errors."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def reported(command: Callable[P, None]) -> Callable[P, None]:
    """Turn what a user can mend into one line and an exit code; show qkit's warnings as notes."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with _notes():
                command(*args, **kwargs)
        except QkitError as error:
            _say("error", "red", " ".join(str(error).split()))
            raise typer.Exit(FAILED) from None
        except KeyboardInterrupt:
            _say("interrupted", "yellow", "nothing was written.")
            raise typer.Exit(INTERRUPTED) from None
        except MemoryError:
            _say("error", "red", "out of memory. Try a smaller --batch-size.")
            raise typer.Exit(FAILED) from None

    return run


@contextmanager
def _notes() -> Iterator[None]:
    def show(message: Warning | str, category: type[Warning], *where: object) -> None:
        if issubclass(category, QkitWarning):
            _say("note", "yellow", str(message))
        else:
            original(message, category, *where)  # type: ignore[arg-type]

    with warnings.catch_warnings():
        original = warnings.showwarning
        warnings.showwarning = show  # type: ignore[assignment]
        warnings.simplefilter("always", QkitWarning)
        yield


def _say(what: str, style: str, text: str) -> None:
    console = stderr()
    console.print(f"[bold {style}]{what}:[/] ", end="")
    console.print(text, markup=False)


class Bars:
    """Phases as progress bars on stderr, each with its rate, elapsed time and time left."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    @contextmanager
    def phase(self, name: str, total: int | None) -> Iterator[Advance]:
        """Show one more bar."""
        task = self.progress.add_task(name, total=total)
        yield lambda done: self.progress.advance(task, done)
        if total is None:
            self.progress.update(task, total=1, completed=1)


@contextmanager
def progress_bars() -> Iterator[ProgressProtocol]:
    """Bars where stderr is a terminal; silence where it is piped."""
    console = stderr()
    if not console.is_terminal:
        yield Silent()
        return
    columns = (
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}", table_column=Column(max_width=38, no_wrap=True)),
        BarColumn(bar_width=12),
        TaskProgressColumn(),
        TextColumn("took"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console) as progress:
        yield Bars(progress)
