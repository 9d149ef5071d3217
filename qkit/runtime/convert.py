# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Turn a swapped model that is filled with placeholders into one that runs in integers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qkit.artifact.packing import unpack
from qkit.artifact.stored import Stored, stored_levels
from qkit.calibration.install import install_roundings
from qkit.graph.layers import Layer
from qkit.nn.attention import QuantSDPA
from qkit.nn.conv import QuantConv2d
from qkit.nn.embedding import QuantEmbedding
from qkit.nn.integers import IntegerWeight, integer_bias, integer_weight
from qkit.nn.layer import QuantLayer
from qkit.nn.multihead import QuantMultiheadAttention
from qkit.nn.operand import Rounder
from qkit.nn.product import ExactProduct
from qkit.runtime.kernels import Kernel
from qkit.runtime.modules import IntAttention, IntEmbedding, IntLinear, IntMlp, IntPatches
from qkit.spec import PointId, Rounding

FLOAT = "the recipe leaves it in float"
SIMULATED = "its two products are simulated in float: torch has no batched integer product"


@dataclass(frozen=True, slots=True)
class Fallback:
    """A layer that does not compute in integers.

    Attributes:
        layer: its name.
        reason: why.
    """

    layer: str
    reason: str


class _Plan(NamedTuple):
    """What a layer's product is made of."""

    rounder: Rounder
    weight: IntegerWeight
    bias: Tensor | None


def convert(
    model: nn.Module, layers: Sequence[Layer], stored: Stored, kernel: Kernel
) -> tuple[Fallback, ...]:
    """Replace layers by integer ones, in place; those that cannot be simulate as before.

    Args:
        model: swapped, its points filled, its float parameters loaded.
        layers: its layers.
        stored: what is stored of its weights.
        kernel: what multiplies.

    Returns:
        the layers that compute in float, and why.

    Raises:
        ArtifactError: integers of a weight have the wrong number.
    """
    gemm = kernel.gemm or ExactProduct  # a token table needs none
    missing = kernel.missing if kernel.gemm is None else None
    kept: dict[PointId, Rounding] = {}
    found: list[Fallback] = []
    for group in _groups(layers):
        plans = [_plan(layer, stored, gemm, missing) for layer in group]
        reasons = [plan for plan in plans if isinstance(plan, str)]
        if not reasons:
            _put(model, group, [plan for plan in plans if not isinstance(plan, str)], gemm)
            continue
        for layer in group:
            _simulate(layer, stored, kept)
            found.append(Fallback(layer.name, reasons[0]))
    install_roundings(model, kept)
    _fuse_mlps(model)
    return tuple(found)


def _groups(layers: Sequence[Layer]) -> Iterator[list[Layer]]:
    """Layers one by one, but q, k and v of an attention, which share an input, together."""
    seen: set[str] = set()
    for layer in layers:
        if layer.name not in seen:
            shared = layer.attention is not None
            group = [o for o in layers if shared and o.attention is layer.attention] or [layer]
            seen |= {other.name for other in group}
            yield group


def _plan(
    layer: Layer, stored: Stored, gemm: type[ExactProduct], missing: str | None
) -> _Plan | IntegerWeight | str:
    """The parts of a layer's product (of an embedding, its table), or why there is none."""
    module, point = layer.module, layer.weight_quantizer
    if isinstance(module, QuantSDPA):
        return SIMULATED if layer.input_quantizers else FLOAT
    if point is None:
        return "its weight stays in float" if layer.input_quantizers else FLOAT
    table = isinstance(module, QuantEmbedding)
    unfit = None if table else missing or _overlapping(module)
    rounder = gemm.rounder_of(next(iter(layer.input_quantizers), None))
    if unfit is not None or (isinstance(rounder, str) and not table):
        return unfit or str(rounder)
    shape = (len(module.weight), module.weight[0].numel())
    codes = unpack(stored.packed[f"{layer.name}.weight"], point.spec.bits, shape)
    weight = integer_weight(codes, point)
    if isinstance(weight, str) or isinstance(rounder, str) or table:
        return weight
    if (unfit := gemm.unfit(weight)) is not None:
        return unfit
    rounding = stored.roundings.get(point.point)
    correction = None if rounding is None else rounding.correction
    bias = integer_bias(weight, getattr(module, "bias", None), correction, layer.transform)
    return _Plan(rounder, weight, bias)


def _overlapping(module: QuantLayer) -> str | None:
    if not isinstance(module, QuantConv2d):
        return None
    if not module.cuts_patches:
        return "windows of the convolution overlap"
    point = module.input_quantizer
    if point is not None and point.gain is not None:
        return "its input is changed by channel before rounding"
    return None


def _put(
    model: nn.Module,
    group: Sequence[Layer],
    plans: Sequence[_Plan | IntegerWeight],
    gemm: type[ExactProduct],
) -> None:
    """Put integer layers in the places of a group's layers."""
    attention = group[0].attention
    if type(attention) is QuantMultiheadAttention and not attention.cross:
        _replace(model, group[0].name.rpartition(".")[0], _attention(attention, plans, gemm))
        return
    for layer, plan in zip(group, plans, strict=True):
        _replace(model, layer.name, _module(layer, plan, gemm))
    if attention is not None:  # each projection rounds its own input from now on
        attention.input_quantizer = attention.context_quantizer = None


def _module(layer: Layer, plan: _Plan | IntegerWeight, gemm: type[ExactProduct]) -> nn.Module:
    if isinstance(plan, IntegerWeight):
        return IntEmbedding(plan)
    product = gemm(plan.weight, plan.bias)
    if isinstance(layer.module, QuantConv2d):
        return IntPatches(layer.module, plan.rounder, product)
    return IntLinear(plan.rounder, product)


def _attention(
    attention: QuantMultiheadAttention,
    plans: Sequence[_Plan | IntegerWeight],
    gemm: type[ExactProduct],
) -> IntAttention:
    """One product for q, k and v, which stand in this order in the model."""
    parts = [plan for plan in plans if isinstance(plan, _Plan)]
    values = torch.cat([part.weight.values for part in parts])
    scale = torch.cat([part.weight.scale for part in parts])
    zeros = torch.zeros(len(values) // len(parts))
    bias = torch.cat([zeros if part.bias is None else part.bias for part in parts])
    product = gemm(IntegerWeight(values, scale), bias)
    return IntAttention.of(attention, parts[0].rounder, product)


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    owner, _, name = path.rpartition(".")
    setattr(model.get_submodule(owner), name, module.eval())


def _simulate(layer: Layer, stored: Stored, kept: dict[PointId, Rounding]) -> None:
    """Give a layer that stays as it is the float weight that its integers stand for."""
    module, point = layer.module, layer.weight_quantizer
    if isinstance(module, QuantSDPA) or point is None:
        return
    levels = stored_levels(stored.packed[f"{layer.name}.weight"], module, point)
    rounded = point.dequantized(levels).add(0.0)  # no -0.0
    module.weight = nn.Parameter(rounded, requires_grad=False)
    if point.point in stored.roundings:
        kept[point.point] = stored.roundings[point.point]


def _fuse_mlps(model: nn.Module) -> None:
    """Join linear, exact GELU and linear where open_clip runs them one after the other."""
    for owner in list(model.modules()):
        for name, child in list(owner.named_children()):
            if not isinstance(child, nn.Sequential) or len(child) != 3:
                continue
            first, act, second = child
            exact = type(act) is nn.GELU and act.approximate == "none"
            if exact and isinstance(first, IntLinear) and isinstance(second, IntLinear):
                setattr(owner, name, IntMlp(first, second))
