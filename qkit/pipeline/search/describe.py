# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Units and what they got, as the report has them."""

from __future__ import annotations

from collections.abc import Sequence

from qkit.graph.blocks import Block, block_of
from qkit.pipeline.search.trial import Trial
from qkit.pipeline.search.units import Unit
from qkit.report.search import UnitReport


def describe_units(
    units: Sequence[Unit], blocks: Sequence[Block], trials: Sequence[Trial], chosen: Sequence[int]
) -> tuple[UnitReport, ...]:
    """One report a unit, in module order."""
    return tuple(
        UnitReport(
            name=unit.name,
            part=unit.part,
            tower=unit.tower,
            block=block_of(unit.layers[0].name, blocks),
            kind=unit.layers[0].kind,
            weights=unit.weights,
            macs=unit.macs,
            loss={str(trial.bits): trial.losses[number] for trial in trials},
            bits=str(trials[choice].bits),
            sees_input=unit.sees_input,
        )
        for number, (unit, choice) in enumerate(zip(units, chosen, strict=True))
    )
