# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""How the command line speaks: results to stdout, everything else to stderr, errors in one line."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec

import typer
from rich.console import Console

from qkit.cli.progress import Bars, Lines
from qkit.errors import QkitError, QkitWarning
from qkit.progress import Progress

P = ParamSpec("P")
FAILED, INTERRUPTED = 1, 130


def stdout() -> Console:
    """Console for results; full width of the terminal, 80 columns where there is none."""
    return Console(highlight=False, soft_wrap=False, markup=False)


def stderr() -> Console:
    """Console for notes, progress and errors."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a job that keeps what it has; its text says what."""


@contextmanager
def kept(partial: Path | None, message: str) -> Iterator[None]:
    """Tell who interrupts a job that keeps its parts in ``partial`` where it can go on.

    Where no part is done yet, the folder goes, as it does after an error.

    Raises:
        Interrupted: Ctrl-C, and parts were kept.
    """
    try:
        yield
    except (KeyboardInterrupt, QkitError) as stopped:
        if partial is None or not any(partial.rglob("*.safetensors")):
            _drop(partial)
        elif isinstance(stopped, KeyboardInterrupt):
            raise Interrupted(message) from None
        raise


def _drop(partial: Path | None) -> None:
    from qkit.artifact.checkpoints import drop_checkpoints  # torch takes its time

    if partial is not None:
        drop_checkpoints(partial)


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
        except KeyboardInterrupt as stop:
            _say("interrupted", "yellow", str(stop) or "nothing was written.")
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
    with console.capture() as said:
        console.print(f"[bold {style}]{what}:[/] ", end="")
        console.print(text, markup=False)
    sys.stderr.write(said.get())  # bars stand in for sys.stderr, to print above themselves


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Bars where stderr can draw them; plain lines where it is piped, dumb or no Unicode."""
    if _draws():
        bars = Bars(stderr())
        with bars.live:
            yield bars
    else:
        yield Lines(sys.stderr)


def _draws() -> bool:
    """Whether bars can be drawn. FORCE_COLOR on a pipe asks for colours, not for a cursor."""
    unicode = (sys.stderr.encoding or "utf-8").lower().startswith("utf")
    return stderr().is_interactive and sys.stderr.isatty() and unicode
