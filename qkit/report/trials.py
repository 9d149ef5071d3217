# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What if one thing about a layer were different: its local error under each change, measured.

Names of the changes: "weight float", "input float", "input per token", "input full range", "input
least error", "input at 8 bits", "channels smoothed", "weight per channel", "weight least error",
"weight at 8 bits"; of an attention's operands: "probs float", "probs at 8 bits", "probs per token",
"probs log-sqrt2". Where a grid is not uniform, these are, and "input uniform" is the least error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from qkit.graph.layers import Layer
from qkit.grids.codebook import codebook
from qkit.grids.fit import qparams_up_to
from qkit.grids.shapes import SHAPES
from qkit.nn.attention import QuantSDPA, attend
from qkit.nn.layer import QuantLayer
from qkit.nn.tensor_quantizer import Mode, TensorQuantizer
from qkit.numerics import fake_quantize, make_grid, qparams_from_range, token_qparams
from qkit.report.sums import energy
from qkit.spec import Granularity, GridKind, QuantSpec, Range

WIDER = 8  # bits that every kernel has
MATTERS = 0.2  # an operand with less of the error is not looked at further
SHRINKS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.14, 0.1, 0.05, 0.02, 0.01)
EVERY = 4  # the search for the least error looks at each so many-th row, or column of a weight
SMOOTHING = 0.5  # share of the difficulty that smoothing moves into the weight

Noise = dict[str, float]
"""Energy of the local error under each change; "now" is without any."""


def try_weighted(layer: Layer, x: Tensor, output: Tensor, reach: Range | None) -> Noise:
    """Try what applies to a layer with a weight.

    Args:
        layer: linear, conv, projection or embedding with at least one point.
        x: its float input.
        output: its float output for ``x``.
        reach: ends of the input's channels; None where it has none.
    """
    now = _Now.of(layer, x, output)
    found = {"now": now.noise()}
    of_input, of_weight = float(now.point is not None), float(layer.weight_quantizer is not None)
    if of_input and of_weight:
        found["weight float"] = now.noise(weight=now.module.weight)
        found["input float"] = now.noise(x=x)
        total = found["weight float"] + found["input float"]
        if total:
            of_input, of_weight = found["weight float"] / total, found["input float"] / total
    if now.point is not None and reach is not None and of_input >= MATTERS:
        for name, other in _other_inputs(layer, now.point, x, reach):
            found[name] = now.noise(x=other)
        if _can_smooth(layer, now.point):
            found["channels smoothed"] = now.noise(*_smoothed(now, x, reach))
    if layer.weight_quantizer is not None and of_weight >= MATTERS:
        for name, other in _other_weights(layer.weight_quantizer, now.module.weight):
            found[name] = now.noise(weight=other)
    return found


@dataclass(frozen=True, slots=True)
class _Now:
    """A layer as it is: input and weight as its points round them, and the float output."""

    layer: Layer
    point: TensorQuantizer | None
    x: Tensor
    weight: Tensor
    output: Tensor

    @classmethod
    def of(cls, layer: Layer, x: Tensor, output: Tensor) -> Self:
        module = layer.module
        assert isinstance(module, QuantLayer)  # attention goes to try_attention
        point = next(iter(layer.input_quantizers), None)
        with layer.switched(Mode.QUANTIZE):
            weight = module.quantized_weight()
        return cls(layer, point, x if point is None else layer.rounded(x), weight, output)

    def noise(self, x: Tensor | None = None, weight: Tensor | None = None) -> float:
        """Energy of the output's error with another input or weight."""
        x, weight = self.x if x is None else x, self.weight if weight is None else weight
        if weight is self.module.weight:  # nothing is rounded, so nothing is made good
            return energy(self.module.product(x, weight) - self.output)
        with self.layer.switched(Mode.QUANTIZE):
            return energy(self.module.output(x, weight) - self.output)

    @property
    def module(self) -> QuantLayer:
        """The layer's module."""
        assert isinstance(self.layer.module, QuantLayer)  # attention goes to try_attention
        return self.layer.module


def _other_inputs(
    layer: Layer, point: TensorQuantizer, x: Tensor, reach: Range
) -> Iterator[tuple[str, Tensor]]:
    """The input as other grids, all uniform, in the same coordinates, would round it."""
    spec = replace(point.spec, grid=GridKind.UNIFORM)
    if layer.kind == "conv" and (spec.dynamic or point.transform is not None):
        return  # it is rounded in patches
    z = point.into(x)
    if point.transform is not None:
        reach = Range(*torch.aminmax(z.flatten(0, -2), dim=0))

    def rounded(other: QuantSpec, range_: Range) -> Tensor:
        return point.out_of(_round(z, other, range_, point.axis), x)

    if spec.bits < WIDER:
        wider = replace(spec, bits=WIDER)
        yield f"input at {WIDER} bits", rounded(wider, _ends(wider, reach))
    if spec.dynamic:
        return
    full = _ends(spec, reach)
    if layer.kind != "conv":
        yield "input per token", rounded(replace(spec, granularity=Granularity.TOKEN), full)
    if point.spec.uniform:
        yield "input full range", rounded(spec, full)
    part = z.flatten(0, -2)[::EVERY] if layer.kind != "conv" else z
    name = "input least error" if point.spec.uniform else "input uniform"
    yield name, rounded(spec, _least_error(part, spec, full, point.axis))


def _other_weights(point: TensorQuantizer, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The weight as other grids, in the same coordinates, would round it."""
    rows, spec = point.into(weight.detach()).flatten(1), replace(point.spec, grid=GridKind.UNIFORM)
    channel = replace(spec, granularity=Granularity.CHANNEL)
    full = Range(rows.amin(dim=1), rows.amax(dim=1))

    def rounded(other: QuantSpec, range_: Range) -> Tensor:
        return point.out_of(_round(rows, other, range_, 0), weight).view_as(weight)

    if spec.granularity is Granularity.TENSOR:
        yield "weight per channel", rounded(channel, full)
    if spec.bits < WIDER:
        yield f"weight at {WIDER} bits", rounded(replace(channel, bits=WIDER), full)
        least = _least_error(rows[:, ::EVERY].contiguous(), channel, full, 0)
        yield "weight least error", rounded(channel, least)


def _ends(spec: QuantSpec, reach: Range) -> Range:
    """Full range of an input, by channel where ``spec`` has scales by channel."""
    if spec.granularity is Granularity.CHANNEL:
        return reach
    return Range(reach.min.amin(), reach.max.amax())


def _round(x: Tensor, spec: QuantSpec, range_: Range, axis: int) -> Tensor:
    if spec.dynamic:
        return _round_tokens(x, spec)
    return fake_quantize(x, make_grid(qparams_from_range(range_, spec), spec, axis, x.ndim))


def _round_tokens(x: Tensor, spec: QuantSpec) -> Tensor:
    spec = replace(spec, granularity=Granularity.TOKEN)
    return fake_quantize(x, make_grid(token_qparams(x, spec), spec))


def _least_error(x: Tensor, spec: QuantSpec, full: Range, axis: int) -> Range:
    """The full range shrunk by the factor with the least squared error, a factor a channel."""
    by_channel = full.min.ndim > 0
    dims = [d for d in range(x.ndim) if not by_channel or d != axis % x.ndim]
    errors = []
    for shrink in SHRINKS:
        shrunk = Range(full.min * shrink, full.max * shrink)
        errors.append((_round(x, spec, shrunk, axis) - x).square_().sum(dim=dims))
    best = x.new_tensor(SHRINKS)[torch.stack(errors).argmin(dim=0)]
    return Range(full.min * best, full.max * best)


def _can_smooth(layer: Layer, point: TensorQuantizer) -> bool:
    per_tensor = point.spec.granularity is Granularity.TENSOR and point.spec.uniform
    plain = per_tensor and point.transform is None
    return plain and layer.kind in ("linear", "projection") and bool(layer.weight_quantizer)


def _smoothed(now: _Now, x: Tensor, reach: Range) -> tuple[Tensor, Tensor]:
    """Input and weight after scales were moved between them (SmoothQuant, Xiao et al. 2023, Eq 4).

    The factor of channel j is max|x_j|^a / max|w_j|^(1-a), a = 0.5; both then get full ranges.
    """
    assert now.point is not None  # _can_smooth
    assert now.module.weight_quantizer is not None
    weight = now.module.weight.detach()
    far = torch.maximum(-reach.min, reach.max).clamp(min=1e-5)
    factor = far**SMOOTHING / weight.abs().amax(dim=0).clamp(min=1e-5) ** (1 - SMOOTHING)
    ends = Range((reach.min / factor).amin(), (reach.max / factor).amax())
    scaled = weight * factor
    spec = replace(now.module.weight_quantizer.spec, granularity=Granularity.CHANNEL)
    rows = Range(scaled.amin(dim=1), scaled.amax(dim=1))
    return _round(x / factor, now.point.spec, ends, -1), _round(scaled, spec, rows, 0)


def try_attention(layer: Layer, inputs: tuple[Any, ...], output: Tensor) -> Noise:
    """Try what applies to an attention core: each operand in float, then help for the worst."""
    assert isinstance(layer.module, QuantSDPA)
    points = {point.point.role: point for point in layer.input_quantizers}
    q, k, v, *rest = inputs
    mask = rest[0] if rest else None

    def noise(role: str | None, other: Callable[[Tensor], Tensor]) -> float:
        tried = attend(
            q, k, v, mask, 0.0, lambda r, x: other(x) if r == role else points[r].round(x)
        )
        return energy(tried - output)

    found = {"now": noise(None, lambda x: x)}
    found |= {f"{role} float": noise(role, lambda x: x) for role in points}
    role = min(points, key=lambda role: found[f"{role} float"])
    spec, own = replace(points[role].spec, grid=GridKind.UNIFORM), points[role].spec.grid
    if spec.bits < WIDER:
        wider = replace(spec, bits=WIDER)
        found[f"{role} at {WIDER} bits"] = noise(
            role, lambda x: _round(x, wider, Range(x.amin(), x.amax()), -1)
        )
    if not spec.dynamic:
        found[f"{role} per token"] = noise(role, lambda x: _round_tokens(x, spec))
    if own is not GridKind.UNIFORM:
        found[f"{role} uniform"] = noise(
            role, lambda x: _round(x, spec, Range(x.amin(), x.amax()), -1)
        )
    elif role == "probs":
        odd = QuantSpec(spec.bits, grid=GridKind.LOG_SQRT2)
        found[f"probs {odd.grid}"] = noise(role, lambda x: _round_up_to(x, odd))
    return found


def _round_up_to(x: Tensor, spec: QuantSpec) -> Tensor:
    """On a grid that is not uniform, up to the largest value, its integer the first possible."""
    q = qparams_up_to(x.amax(), spec, SHAPES[spec.grid].parameters[0])
    return codebook(q, spec).round(x)
