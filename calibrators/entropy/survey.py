# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""One float pass over a tower: every layer's own best ranges, and how layers hang together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from calibrators.entropy.dependency import Dependency
from calibrators.entropy.layerwise import choose_input, choose_weight
from qkit.calibration.bench import Rig, Stream
from qkit.calibration.importance import Importance, measure_importance
from qkit.calibration.readers import arrivals, draw, group_readers
from qkit.calibration.running import Inputs
from qkit.calibration.session import CalibrationSession
from qkit.graph.layers import Layer
from qkit.graph.stages import first_input
from qkit.numerics import fake_quantize, make_grid, token_qparams
from qkit.spec import Granularity, PointId, QParams, QuantSpec, Range

PROBES = 2
UNQUANTIZED = QuantSpec(4, granularity=Granularity.TOKEN)  # levels of an input without a point


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known of a tower before its blocks are searched.

    Attributes:
        chosen: every layer's own best scales; they are installed.
        dependencies: of stage k + 1 on stage k, nats.
        importances: weights of an error at the end of each stage.
    """

    chosen: dict[PointId, QParams] = field(default_factory=dict)
    dependencies: list[float] = field(default_factory=list)
    importances: list[Importance] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Surveyor:
    """Surveys a tower.

    Attributes:
        rig: the tower with its samples.
        session: statistics of its points.
        rows: rows of an input that ranges are chosen on.
        seed: of their draw.
    """

    rig: Rig
    session: CalibrationSession
    rows: int
    seed: int

    def run(self, *, weighted: bool) -> Survey:
        """Survey the tower; ``weighted`` by importance for the embedding, else evenly."""
        found = Survey()
        found.chosen.update(self._own(self.rig.outside, self.rig.outside_inputs()))
        if not self.rig.stages:
            return found
        if weighted:
            found.importances.extend(measure_importance(self.rig, PROBES, self.seed))
        stream = self.rig.enter(quantized=False)
        before: Positions | None = None
        for stage in self.rig.stages:
            stream, inputs = self.rig.layer_inputs(stage, stream)
            if not weighted:
                found.importances.append(Importance.even(stream))
            found.chosen.update(self._own(stage.layers, inputs))
            after = positions(stage.layers, inputs)
            if before is not None:
                found.dependencies.append(_dependency(before, after))
            before = after
        return found

    def _own(self, layers: Sequence[Layer], inputs: Inputs) -> dict[PointId, QParams]:
        """Choose and install each layer's own best scales; readers of one input go together."""
        chosen: dict[PointId, QParams] = {}
        for group in group_readers(layers, inputs):
            chosen.update(self._group(group, arrivals(group, inputs)))
        for point, q in chosen.items():
            self.rig.put(point, q)
        return chosen

    def _group(self, group: list[Layer], arrived: Stream) -> dict[PointId, QParams]:
        """Choose the scale of one input, then, on what that leaves of it, of all its readers."""
        chosen: dict[PointId, QParams] = {}
        first = group[0]
        point = next(iter(first.input_quantizers), None)
        if point is not None and (point.spec.dynamic or not point.spec.uniform):
            arrived = [first.rounded(x) for x in arrived]
        parts = [r for x in arrived if (r := first.rows(x)) is not None]
        rows = draw(parts, self.rows, self.seed)  # by importance was tried and lost accuracy
        if rows is None:
            return chosen
        static = point is not None and point.spec.granularity is Granularity.TENSOR
        if point is not None and static and point.spec.uniform:
            weight = torch.cat([layer.weight_rows for layer in group])
            q = choose_input(rows, weight, self._full(point.point), point.spec)
            chosen[point.point] = q
            rows = fake_quantize(rows, make_grid(q, point.spec))
        for layer in group:
            own = layer.weight_quantizer
            if own is not None:
                full = self._full(own.point)
                chosen[own.point] = choose_weight(rows, layer.weight_rows, full, own.spec)
        return chosen

    def _full(self, point: PointId) -> Range:
        seen = self.session.stats(point)
        return Range(seen.min_val, seen.max_val)


@dataclass(frozen=True, slots=True)
class Positions:
    """Where values lie on their grid, in steps from the lowest level; one tensor a batch."""

    values: Stream
    levels: int


def positions(layers: Sequence[Layer], inputs: Inputs) -> Positions:
    """Positions of the first input that a stage rounds: its activation, as Q-VLM calls it."""
    layer, point = first_input(layers, inputs)
    if point is None:
        levels = 1 << UNQUANTIZED.bits
        return Positions([_own_positions(x).clamp(-1, levels) for x in inputs[layer.name]], levels)
    levels = 1 << point.spec.bits
    return Positions([point.positions(x).clamp(-1, levels) for x in inputs[layer.name]], levels)


def _own_positions(x: Tensor) -> Tensor:
    scale, zero_point = token_qparams(x, UNQUANTIZED)
    return x / scale + (zero_point - UNQUANTIZED.quant_min)


def _dependency(before: Positions, after: Positions) -> float:
    found = Dependency((before.levels, after.levels))
    for x, y in zip(before.values, after.values, strict=True):
        found.update(x, y)
    return found.value
