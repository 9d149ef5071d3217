# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a benchmark of a run measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds for one batch.

    Attributes:
        median: of all repeats.
        spread: distance between the quartiles.
    """

    median: float
    spread: float


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """One model on one kind of batch.

    Attributes:
        what: "image"; "captions", texts of ordinary length; or "full texts", up to the context.
        batch: images or texts at once.
        model: "fp32", "bf16", "int8" or "int4", or an export's format.
        cpu: processor time of the whole process, all threads together.
        wall: time on the clock.
        per_second: images or texts, by the clock.
        speedup: of processor time over fp32's.
    """

    what: str
    batch: int
    model: str
    cpu: Timing
    wall: Timing
    per_second: float
    speedup: float


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one model takes.

    Attributes:
        file: bytes of its weights on disk.
        held: bytes in memory after one batch of each tower, above the imported packages; None
            where the system does not tell.
        peak: the most there were at once, loading included; None as above.
    """

    file: int
    held: int | None
    peak: int | None


@dataclass(frozen=True, slots=True)
class SpeedReport:
    """What ``qkit bench`` found.

    Attributes:
        threads: that torch was given.
        warmup: batches of each kind and model before the clock ran.
        repeats: batches measured.
        rows: timings.
        footprints: by model.
        runtime: what ran it, "int8", or "int4" where only its weights are integers.
        layers: of the run.
        in_float: how many of its layers had no kernel, by reason.
    """

    threads: int
    warmup: int
    repeats: int
    rows: tuple[SpeedRow, ...]
    footprints: Mapping[str, Footprint]
    runtime: str
    layers: int
    in_float: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return asdict(self)
