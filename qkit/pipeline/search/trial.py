# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The model calibrated at one choice of bits: what each unit then loses alone, and all together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from qkit.allocation.choices import Bits
from qkit.calibration.observe import set_mode
from qkit.graph.points import Points, put_points, take_points
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.inputs import CalibrationData
from qkit.pipeline.search.costs import Stored, stored_bytes
from qkit.pipeline.search.meter import Meter
from qkit.pipeline.search.units import Unit, list_units
from qkit.pipeline.steps import Steps
from qkit.pipeline.student import Student, give_points
from qkit.progress import Advance, Progress
from qkit.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Trial:
    """All layers at one choice of bits.

    Attributes:
        bits: the choice.
        losses: KL with one unit quantized at a time, in nats, in the order of the units.
        together: KL with all of it quantized, in nats.
        stored: bytes in the file, by module.
        points: every layer's points, calibrated.
    """

    bits: Bits
    losses: Sequence[float]
    together: float
    stored: Stored
    points: Mapping[str, Points]


def try_bits(
    bits: Bits, recipe: Recipe, meter: Meter, data: CalibrationData, progress: Progress
) -> Trial:
    """Calibrate the meter's student by ``recipe``, which has all at ``bits``, and measure it."""
    student, named = meter.student, _Named(progress, f"{bits}: ")
    give_points(student, recipe)
    Steps.of(recipe).run(student, data, named)
    units = list_units(student)
    with named.phase("one unit at a time", len(units)) as step:
        losses = meter.alone(units, step)
        together = meter.whole()
    return Trial(bits, losses, together, stored_bytes(student), take_points(student.layers))


def assemble(
    student: Student, units: Sequence[Unit], trials: Sequence[Trial], chosen: Sequence[int]
) -> None:
    """Give every unit the points of its own choice and switch all points on.

    Attention cores have the same bits in every trial; they get the points of the widest.
    """
    widest = max(trials, key=lambda trial: sum(trial.bits))
    points = dict(widest.points)
    for unit, choice in zip(units, chosen, strict=True):
        points |= {layer.name: trials[choice].points[layer.name] for layer in unit.layers}
    for layer in student.layers:
        put_points(layer, points[layer.name])
    set_mode(student.model, Mode.QUANTIZE)


@dataclass(frozen=True, slots=True)
class _Named:
    """Progress whose phases say which trial they belong to."""

    progress: Progress
    start: str

    def phase(self, name: str, total: int | None) -> AbstractContextManager[Advance]:
        return self.progress.phase(self.start + name, total)
