# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Which stretches of the towers a calibrator searched together, and what that gained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from qkit.calibration.protocol import Annotated
from qkit.numerics import sqnr_db
from qkit.report.layer import LayerReport
from qkit.spec import PointId, QParams


@dataclass(frozen=True, slots=True)
class StageReport:
    """Half a residual block, or a whole one, as the calibrator searched it.

    Attributes:
        name: path in the swapped model; the halves of a block end with "attn" and "mlp".
        tower: "image" or "text".
        block: index of its block within the tower.
        layers: names of the layers inside.
        dependency: of the next stage on this one, a conditional entropy, nats; None for a tower's
            last.
        group: number of the stages that were searched together, from 0 in each tower.
        start: squared error at the end of the group with every layer's own best ranges, relative
            to the float values there, weighted as the calibrator weighs it.
        error: the same with the ranges that the search chose.
    """

    name: str
    tower: str
    block: int
    layers: tuple[str, ...]
    dependency: float | None
    group: int
    start: float
    error: float

    @property
    def gain_db(self) -> float:
        """What the search of its group gained, dB."""
        return 0.0 if self.start == self.error else sqnr_db(self.start, self.error)


@dataclass(frozen=True, slots=True)
class PartitionReport:
    """How a calibrator cut the towers into groups of layers that it searched together.

    Attributes:
        stages: tower by tower in running order; empty where it searches no groups.
        threshold: average dependency that a group had to exceed, by tower, nats; None where it was
            infinite.
    """

    stages: tuple[StageReport, ...] = ()
    threshold: Mapping[str, float | None] = field(default_factory=dict)


def describe_partition(chosen: Mapping[PointId, QParams]) -> PartitionReport:
    """What a calibrator noted beside the scales it chose; empty where it noted nothing."""
    if not isinstance(chosen, Annotated):
        return PartitionReport()
    stages = tuple(
        StageReport(
            name=note.name,
            tower=note.tower,
            block=note.block,
            layers=note.layers,
            dependency=note.dependency,
            group=note.group,
            start=note.start,
            error=note.error,
        )
        for note in chosen.stages
    )
    finite = {t: value if math.isfinite(value) else None for t, value in chosen.threshold.items()}
    return PartitionReport(stages, finite)


def mark_layers(
    layers: Sequence[LayerReport], partition: PartitionReport
) -> tuple[LayerReport, ...]:
    """The layers with their stage's dependency and group; those of no stage stay as they are."""
    stages = {name: stage for stage in partition.stages for name in stage.layers}
    return tuple(
        replace(layer, dependency=stage.dependency, search_group=stage.group)
        if (stage := stages.get(layer.name))
        else layer
        for layer in layers
    )


def groups_of(stages: Sequence[StageReport]) -> list[list[StageReport]]:
    """Stages of one tower by group, in running order."""
    return [list(group) for _, group in groupby(stages, key=lambda stage: stage.group)]
