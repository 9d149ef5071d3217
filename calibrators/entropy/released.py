# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What Q-VLM's public code does, which is not what its paper says; for comparison only.

Samples run one by one through a tower that rounds its inputs. Eight widen the range of every layer
that a gate lets through; the tenth picks how far each range shrinks. Its defects are kept: the
"entropy" grows with the number of tokens, and two proxies of unlike size share one mean.

It departs from that code, written anew after its behaviour, in this:

- Both towers go the way of its language model: its vision path has one fixed range a position.
- A layer is an input with a point of its own: q, k and v share theirs and count as one.
- A range is a channel's where the recipe says so, else the tensor's. It stays fixed; there, layers
  of any width but 4096, and o, take theirs from the prompt. A per-token input only has its proxy.
- Bits and grid are the recipe's, there 4 bits: zero lies in every range, and none has width zero.
- Weights are uniform at full range, there NF4. Attention operands and layers outside the blocks,
  float there, have their full range, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from calibrators.entropy.proxies import Proxies
from calibrators.minmax import MinMax
from qkit.calibration.bench import Rig
from qkit.calibration.running import switched
from qkit.calibration.session import CalibrationSession
from qkit.graph.stages import Stage
from qkit.numerics import fake_quantize, make_grid, qparams_from_range
from qkit.progress import Advance, ignore
from qkit.spec import Granularity, PointId, QParams, QuantSpec, Range

ACCUMULATED = 8  # samples that ranges come from
SAMPLES = ACCUMULATED + 2  # the last of which ranges are shrunk on; the one before changes nothing
FACTORS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)

Visit = Callable[[int, PointId, Tensor], None]
"""Takes a block's number, from 1, and the input that arrives at one of its points."""


def released_ranges(
    session: CalibrationSession, span: str, advance: Advance
) -> dict[PointId, QParams]:
    """Choose every scale of a session, full ranges where the public code cannot be followed."""
    told = 0
    chosen = dict(MinMax().calibrate(session, ignore))
    for rig in session.bench.rigs(span, SAMPLES) if session.bench else []:
        found = released(rig, session)
        chosen |= found
        advance(len(found))
        told += len(found)
    advance(len(session.points) - told)
    return chosen


def released(rig: Rig, session: CalibrationSession) -> dict[PointId, QParams]:
    """Choose and install the scales of one tower.

    Args:
        rig: the tower with ten samples; of fewer, the last one is what ranges are shrunk on.
        session: statistics of its points.
    """
    own = [point for point in session.points if point in rig.points]
    for point in own:
        seen = session.stats(point)
        range_ = Range(seen.min_val, seen.max_val)
        rig.put(point, qparams_from_range(range_, session.points[point]))
    if rig.stages:
        singles = [sample for batch in rig.samples for sample in batch.split(1)]
        Walk(replace(rig, samples=singles[:SAMPLES], _calls=[])).run()
    return {point: rig.points[point].qparams for point in own}


@dataclass(slots=True)
class Walk:
    """Takes samples through a tower, each input rounded with the range known so far.

    Attributes:
        rig: the tower, one sample a batch, all of its points with a scale.
        ranges: what the gate let through so far.
    """

    rig: Rig
    ranges: dict[PointId, Range] = field(default_factory=dict)

    def run(self) -> None:
        """Gather the ranges, then shrink them."""
        sizes = Counter(block for block, _ in _inputs(self.rig.stages))
        stream = self.rig.enter(quantized=True)
        for number, x in enumerate(stream[:ACCUMULATED]):
            self._forward(number, x, partial(self._widen, Proxies(sizes)))
        self._forward(len(stream) - 1, stream[-1], self._shrink)

    def _forward(self, number: int, x: Tensor, visit: Visit) -> None:
        points = [point for stage in self.rig.stages for point in stage.points]
        with switched(points, True), _visited(self.rig, visit), torch.no_grad():
            for stage in self.rig.stages:
                x = self.rig.step(stage, number, x)

    def _widen(self, proxies: Proxies, block: int, point: PointId, x: Tensor) -> None:
        own = self.rig.points[point]
        known = self.ranges.get(point)
        if not own.spec.dynamic and proxies.open(block, seen=known is not None):
            self.ranges[point] = widened(known, x, own.spec, own.axis)
            self.rig.put(point, qparams_from_range(self.ranges[point], own.spec))
        proxies.add(block, _by_token(own.round(x), own.axis))

    def _shrink(self, block: int, point: PointId, x: Tensor) -> None:
        own = self.rig.points[point]
        if point in self.ranges:
            self.rig.put(point, shrunk(x, self.ranges[point], own.spec, own.axis))


def widened(known: Range | None, x: Tensor, spec: QuantSpec, axis: int) -> Range:
    """The least range around ``known`` and the values of ``x``."""
    rows = x.movedim(axis, 0).flatten(1) if spec.granularity is Granularity.CHANNEL else x.flatten()
    low, high = rows.amin(-1), rows.amax(-1)
    if known is None:
        return Range(low, high)
    return Range(torch.minimum(known.min, low), torch.maximum(known.max, high))


def shrunk(x: Tensor, range_: Range, spec: QuantSpec, axis: int) -> QParams:
    """Shrink both ends by the one factor that rounds ``x`` with the least mean root of errors."""

    def error(q: QParams) -> float:
        off = fake_quantize(x, make_grid(q, spec, axis, x.ndim)) - x
        return float(off.abs().sqrt().mean())

    tried = [qparams_from_range(Range(range_.min * f, range_.max * f), spec) for f in FACTORS]
    return min(tried, key=error)


def _by_token(x: Tensor, axis: int) -> Tensor:
    """``x`` as ``(N, tokens, channels)``."""
    last = x.movedim(axis, -1)
    return last.flatten(1, -2) if last.ndim > 2 else last[:, None]


def _inputs(stages: Sequence[Stage]) -> Iterator[tuple[int, PointId]]:
    """The points that stand for layers, with the number of their block."""
    for stage in stages:
        for point in stage.points:
            if point.point.role in ("input", "context"):
                yield stage.block + 1, point.point


@contextmanager
def _visited(rig: Rig, visit: Visit) -> Iterator[None]:
    """Let ``visit`` see each layer's input just before it is rounded."""

    def before(block: int, point: PointId) -> Callable[[Any, tuple[Any, ...]], None]:
        return lambda _, args: visit(block, point, args[0])

    handles = [
        rig.points[point].register_forward_pre_hook(before(block, point))
        for block, point in _inputs(rig.stages)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
