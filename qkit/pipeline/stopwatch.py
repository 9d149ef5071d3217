# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Progress that is timed, phase by phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from qkit.progress import Progress


@dataclass(slots=True)
class Stopwatch:
    """Seconds by phase, shown as progress while they pass."""

    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str, total: int | None) -> Iterator[Any]:
        """Time a phase under ``name``."""
        start = time.perf_counter()
        with self.progress.phase(name, total) as advance:
            yield advance
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
