# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""GPTQ on the inputs that the quantized model really has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calibrators.rounding.solver import choose_scale, damped, refine, solve
from calibrators.rows import inverse_energy
from qkit.calibration.bench import Bench, Rig, Stream
from qkit.calibration.protocol import RoundedWeight
from qkit.calibration.readers import arrivals, group_readers
from qkit.calibration.running import Inputs, recorded, switched
from qkit.graph.layers import Layer
from qkit.graph.stages import Stage
from qkit.progress import Advance
from qkit.spec import PointId, Rounding


@dataclass(frozen=True, slots=True)
class Gptq:
    """Weights rounded column by column, each error made good by the next (GPTQ).

    Every layer sees what the quantized layers before it leave, and counts its inputs by the inverse
    of their energy: a few massive tokens would otherwise stand for all.

    Attributes:
        samples: images, and texts, whose inputs are looked at.
        damping: added to the diagonal of the inputs' second moment, in parts of its mean.
        search: choose scales anew for those inputs; otherwise the calibrator's stay.
        sweeps: over all columns afterwards, each set anew given all others.
    """

    samples: int = 128
    damping: float = 0.01
    search: bool = True
    sweeps: int = 4

    def __post_init__(self) -> None:
        if self.samples < 1:
            message = f"samples = {self.samples} is not possible. Use 1 or more."
            raise ValueError(message)
        if self.sweeps < 0:
            message = f"sweeps = {self.sweeps} is not possible. Use 0 or more."
            raise ValueError(message)
        if not self.damping > 0:
            message = f"damping = {self.damping} is not possible. Use a positive number."
            raise ValueError(message)

    def round(self, bench: Bench, advance: Advance) -> Mapping[PointId, RoundedWeight]:
        """Integers for every weight whose input is a matrix; the model's points have scales."""
        found: dict[PointId, RoundedWeight] = {}
        for rig in bench.rigs("half", self.samples):
            for group, arrived in _walk(rig):
                found |= self._group(group, arrived)
                advance(1)
        return found

    def _group(self, group: Sequence[Layer], arrived: Stream) -> dict[PointId, RoundedWeight]:
        """Round all readers of one input and leave them rounded."""
        found: dict[PointId, RoundedWeight] = {}
        rounded = any(layer.weight_quantizer is not None for layer in group)
        seen = second_moment(group[0], arrived) if rounded else None
        if seen is None:
            return found
        moment = damped(seen, self.damping)
        for layer in group:
            point = layer.weight_quantizer
            if point is None:
                continue
            weight = layer.weight_rows
            q = choose_scale(weight, moment, point.spec) if self.search else point.qparams
            levels = solve(weight, moment, q, point.spec)
            for _ in range(self.sweeps):
                levels, fitted = refine(weight, levels, moment, q, point.spec)
                q = fitted if self.search else q
            rounding = Rounding(levels.view(layer.weight_shape))
            point.set_qparams(q)
            point.set_rounding(rounding)
            found[point.point] = RoundedWeight(q, rounding)
        return found


def second_moment(layer: Layer, arrived: Stream) -> Tensor | None:
    """Mean of x x^T / |x|^2 over the rounded rows x of an input; None where it is no matrix.

    What arrives at q, k and v has passed their shared point already.
    """
    fresh = bool(layer.input_quantizers) and layer.attention is None
    total: Tensor | None = None
    for x in arrived:
        rows = layer.rows(layer.rounded(x) if fresh else x)
        if rows is None:
            return None
        part = (rows * inverse_energy(rows)[:, None]).T @ rows
        total = part if total is None else total + part
    return total


def _walk(rig: Rig) -> Iterator[tuple[list[Layer], Stream]]:
    """All groups of readers in running order, with what the quantized model sends them."""
    stem: Inputs = {}
    if rig.stages:
        with recorded(rig.outside) as stem:
            rig.enter(quantized=True)
        for group in group_readers(rig.outside, stem):
            yield group, arrivals(group, stem)
        stream = rig.enter(quantized=True)
        for stage in rig.stages:
            yield from _within(rig, stage, stream)
            stream = rig.run([stage], stream, quantized=True)
    rest = [layer for layer in rig.outside if layer.name not in stem]
    for group in group_readers(rest, [layer.name for layer in rest]):
        arrived = _encoded(rig, group)
        if arrived:
            yield group, arrivals(group, arrived)


def _within(rig: Rig, stage: Stage, stream: Stream) -> Iterator[tuple[list[Layer], Stream]]:
    with recorded(stage.layers) as order:
        rig.run([stage], stream[:1], quantized=False)
    for group in group_readers(stage.layers, order):
        with recorded(group) as inputs:
            rig.run([stage], stream, quantized=True)
        yield group, arrivals(group, inputs)


def _encoded(rig: Rig, group: Sequence[Layer]) -> Inputs:
    with recorded(group) as inputs, switched(rig.points.values(), True), torch.no_grad():
        for batch in rig.samples:
            rig.encode(batch)
    return inputs
