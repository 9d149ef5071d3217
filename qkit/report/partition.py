# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Which stretches of the towers a calibrator searched together, and what that gained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from qkit.calibration.protocol import Annotated, StageNote
from qkit.report.layer import LayerReport
from qkit.spec import PointId, QParams


@dataclass(frozen=True, slots=True)
class PartitionReport:
    """How a calibrator cut the towers into groups of layers that it searched together.

    Attributes:
        stages: tower by tower in running order; empty where it searches no groups.
        threshold: average dependency that a group had to exceed, by tower, nats; None where it was
            infinite.
    """

    stages: tuple[StageNote, ...] = ()
    threshold: Mapping[str, float | None] = field(default_factory=dict)


def describe_partition(chosen: Mapping[PointId, QParams]) -> PartitionReport:
    """What a calibrator noted beside the scales it chose; empty where it noted nothing."""
    if not isinstance(chosen, Annotated):
        return PartitionReport()
    finite = {t: value if math.isfinite(value) else None for t, value in chosen.threshold.items()}
    return PartitionReport(chosen.stages, finite)


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


def groups_of(stages: Sequence[StageNote]) -> list[list[StageNote]]:
    """Stages of one tower by group, in running order."""
    return [list(group) for _, group in groupby(stages, key=lambda stage: stage.group)]
