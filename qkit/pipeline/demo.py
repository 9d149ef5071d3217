# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The tour of the demo: the same model at 8 and at 4 bits, as it breaks and as it is mended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from qkit.clip.loading import DEMO, load_model
from qkit.pipeline.calibrate import CalibrationResult, calibrate
from qkit.pipeline.defaults import CALIBRATION, EVALUATION
from qkit.progress import Advance, Progress
from qkit.recipe.overrides import Overrides


@dataclass(frozen=True, slots=True)
class Stop:
    """A stop of the tour.

    Attributes:
        name: of its run folder.
        title: what is done, in words.
        recipe: a shipped recipe; None is qkit's default.
        flags: what overrides it.
    """

    name: str
    title: str
    recipe: str | None
    flags: Overrides


FOUR_BITS = Overrides(bits=4, attn_bits=4, method="minmax")
STOPS = (
    Stop("w8a8", "8 bits, full ranges", "w8a8-minmax", Overrides()),
    Stop("w4a4-minmax", "4 bits, full ranges", None, FOUR_BITS),
    Stop("w4a4-mse", "4 bits, least error", None, replace(FOUR_BITS, method="mse")),
    Stop("w4a4-mse-token", "4 bits per token, attn 8", "w4a4-mse-token", Overrides()),
)


@dataclass(frozen=True, slots=True)
class _Titled:
    """Progress whose phases start with the stop they belong to."""

    progress: Progress
    title: str

    @contextmanager
    def phase(self, name: str, total: int | None) -> Iterator[Advance]:
        """Show a phase."""
        with self.progress.phase(f"{self.title}: {name}", total) as advance:
            yield advance


def tour(progress: Progress) -> Iterator[tuple[Stop, CalibrationResult]]:
    """Calibrate and evaluate the demo model at one stop after the other."""
    clip = load_model(DEMO)
    for stop in STOPS:
        result = calibrate(
            clip,
            CALIBRATION,
            recipe=stop.recipe,
            overrides=stop.flags,
            evaluate=EVALUATION,
            progress=_Titled(progress, stop.name),
        )
        yield stop, result
