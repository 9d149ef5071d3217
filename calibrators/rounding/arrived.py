# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What arrives at the weights of a quantized model: layer after layer, and as moments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calibrators.rows import inverse_energy
from qkit.calibration.bench import Rig, Stream
from qkit.calibration.readers import arrivals, group_readers
from qkit.calibration.running import Inputs, recorded, switched
from qkit.graph.layers import Layer
from qkit.graph.stages import Stage


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over the rows x of an input and the rows r that they are rounded to, by 1 / |r|^2.

    In the coordinates in which the input is rounded. What arrives at q, k and v has passed their
    shared point already: there x is r.

    Attributes:
        own: ``(in, in)``, of r r^T.
        cross: ``(in, in)``, of x r^T.
        mean: ``(in,)``, mean of x.
        own_mean: ``(in,)``, mean of r.
    """

    own: Tensor
    cross: Tensor
    mean: Tensor
    own_mean: Tensor


def moments(layer: Layer, arrived: Stream) -> Moments | None:
    """Moments of an input; None where it is no matrix."""
    fresh = bool(layer.input_quantizers) and layer.attention is None
    totals: list[Tensor] | None = None
    for x in arrived:
        rounded = layer.rows(layer.rounded(x) if fresh else x)
        if rounded is None:
            return None
        rows = layer.rows(x) if fresh else rounded
        assert rows is not None  # as many rows as were rounded
        parts = _sums(rows, rounded)
        totals = parts if totals is None else [a + b for a, b in zip(totals, parts, strict=True)]
    if totals is None:
        return None
    own, cross, mean, own_mean, weight = totals
    share = weight.clamp(min=torch.finfo(weight.dtype).tiny)
    return Moments(own, cross, mean / share, own_mean / share)


def _sums(rows: Tensor, rounded: Tensor) -> list[Tensor]:
    weights = inverse_energy(rounded)
    weighed = rounded * weights[:, None]
    return [
        weighed.T @ rounded,
        rows.T @ weighed,
        weights @ rows,
        weighed.sum(0),
        weights.sum(),
    ]


def walk(rig: Rig) -> Iterator[tuple[list[Layer], Stream]]:
    """All groups of readers in running order, with what the quantized model sends them.

    A group that was rounded by the time the next one is asked for is part of that model.
    """
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
