# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""How long jobs tell where they are. The library prints nothing; the command line shows it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]
"""Called with the number of items just finished."""


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
        yield lambda done: None
