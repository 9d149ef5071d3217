# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Take the points of layers away and put them back, so that several sets can share one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qkit.graph.layers import Layer
from qkit.nn.attention import QuantSDPA
from qkit.nn.tensor_quantizer import TensorQuantizer


@dataclass(frozen=True, slots=True)
class Points:
    """The points of one layer.

    Attributes:
        weight: that of its weight.
        inputs: those of its inputs, by role.
    """

    weight: TensorQuantizer | None
    inputs: Mapping[str, TensorQuantizer]


def take_points(layers: Sequence[Layer]) -> dict[str, Points]:
    """The points that layers have now, by the layer's name; they stay where they are."""
    return {
        layer.name: Points(
            layer.weight_quantizer, {p.point.role: p for p in layer.input_quantizers}
        )
        for layer in layers
    }


def put_points(layer: Layer, points: Points) -> None:
    """Give a layer points that were taken from it, scales and all.

    q, k and v of an attention share their input's point: give all of them the points of one set.
    """
    if isinstance(layer.module, QuantSDPA):
        layer.module.operands.clear()
        layer.module.operands.update(points.inputs)
        return
    layer.module.weight_quantizer = points.weight
    found = next(iter(points.inputs.values()), None)
    if layer.attention is None:
        layer.module.input_quantizer = found
    elif layer.attention.cross and layer.module is not layer.attention.q_proj:
        layer.attention.context_quantizer = found
    else:
        layer.attention.input_quantizer = found
