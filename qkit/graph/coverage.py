# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""How much of a model is quantized, counted against torch's own operator counter.

The denominator comes from outside: all parameters of the model, and every matrix product that
torch's FlopCounterMode sees in a forward. A layer that the walker overlooks therefore lowers the
share instead of vanishing from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from qkit.graph.layers import Layer, Towers, operand_bits, tower_of
from qkit.nn.attention import QuantSDPA
from qkit.nn.layer import QuantLayer


@dataclass(frozen=True, slots=True)
class LeftFloat:
    """Parameters that stay in float.

    Attributes:
        what: layer name, or a family of parameters ("LayerNorm").
        weights: number of values.
        macs: multiply-accumulates that they (and an attention's products) stand for.
        why: the reason.
    """

    what: str
    weights: int
    macs: int
    why: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """Share of a model that is quantized.

    Attributes:
        weights: fraction of all parameters held as integers.
        macs: fraction of all multiply-accumulates of one image and one text of which both
            operands are quantized.
        total_weights: all parameters of the model.
        total_macs: multiply-accumulates of one image and one text.
        left_float: what is missing from 1.0 and why.
    """

    weights: float
    macs: float
    total_weights: int
    total_macs: int
    left_float: tuple[LeftFloat, ...]


def measure_coverage(
    model: nn.Module,
    towers: Towers,
    layers: Sequence[Layer],
    macs: Mapping[str, int],
    total_macs: int,
    reasons: Mapping[str, str],
) -> Coverage:
    """Count what is quantized and name what is not.

    Args:
        model: the swapped model with its points attached.
        towers: its towers.
        layers: its layers.
        macs: multiply-accumulates by layer name.
        total_macs: those of everything.
        reasons: why a layer that is not (wholly) quantized stays float, by layer name.
    """
    left = [
        LeftFloat(layer.name, _float_weights(layer), macs.get(layer.name, 0), reasons[layer.name])
        for layer in layers
        if not (_whole_weight(layer) and _whole_product(layer))
    ]
    held = {id(p): n for n, p in model.named_parameters()}
    inside = {id(m.module.weight) for m in layers if isinstance(m.module, QuantLayer)}
    rest = [name for key, name in held.items() if key not in inside]
    left += _families(model, towers, rest)
    total = sum(p.numel() for p in model.parameters())
    products = sum(macs.get(layer.name, 0) for layer in layers if _whole_product(layer))
    seen = sum(macs.values())
    if total_macs > seen:
        left.append(
            LeftFloat("other products", 0, total_macs - seen, "outside the layers qkit swaps")
        )
    missing = sum(item.weights for item in left)
    return Coverage(
        1 - missing / total,
        products / max(total_macs, seen),
        total,
        max(total_macs, seen),
        tuple(left),
    )


def _whole_weight(layer: Layer) -> bool:
    return isinstance(layer.module, QuantSDPA) or layer.weight_quantizer is not None


def _whole_product(layer: Layer) -> bool:
    return all(bits is not None for bits in operand_bits(layer).values())


def _float_weights(layer: Layer) -> int:
    if _whole_weight(layer) or isinstance(layer.module, QuantSDPA):
        return 0
    return layer.module.weight.numel()


def _families(model: nn.Module, towers: Towers, names: Sequence[str]) -> list[LeftFloat]:
    sums: dict[tuple[str, str], int] = {}
    for name in names:
        key = _family(model, towers, name)
        sums[key] = sums.get(key, 0) + model.get_parameter(name).numel()
    return [LeftFloat(what, weights, 0, why) for (what, why), weights in sums.items()]


def _family(model: nn.Module, towers: Towers, name: str) -> tuple[str, str]:
    owner = model.get_submodule(name.rpartition(".")[0])
    if tower_of(name, towers) is None and name not in ("logit_scale", "logit_bias"):
        return name.split(".")[0], "no part of the two encoders"
    if isinstance(owner, QuantLayer):
        return "biases", "added to the accumulator, as wide as it is"
    kind = type(owner).__name__
    if "Norm" in kind:
        return kind, "a scale and a shift a channel, computed in float"
    if name.rpartition(".")[2].endswith(("embedding", "embed", "emb", "logit_scale", "logit_bias")):
        return name, "added or multiplied once, too small to matter"
    return f"{name} ({kind})", "not a kind of parameter that qkit quantizes"
