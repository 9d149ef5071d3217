# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What the int8 runtime simulates, in a form that exports: attention's products, odd layers.

Attention's operands have scales of their own, so both of its products are products of integers
to a backend that has kernels for them. Other layers keep at least their weight in integers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qkit.exports.operators import Grid, Operators
from qkit.exports.qdq import Levels, StaticQuantizer
from qkit.nn.attention import QuantSDPA
from qkit.nn.integers import IntegerWeight, integer_weight
from qkit.nn.layer import QuantLayer
from qkit.nn.rounders import StaticRounder, rounder_of
from qkit.nn.tensor_quantizer import TensorQuantizer
from qkit.numerics import EPS, along


class TokenProbs(nn.Module):
    """Probabilities ``(..., S)`` with a scale a row; none is below zero, so zero is level 0."""

    def __init__(self, point: TensorQuantizer, operators: Operators) -> None:
        super().__init__()
        self.steps, self.operators = point.spec.quant_max, operators
        self.grid = Grid(1.0, 0)

    def forward(self, probs: Tensor) -> Levels:
        """Levels of ``probs``."""
        rows = (probs.amax(-1, keepdim=True) / self.steps).clamp(min=EPS)
        return Levels(self.operators.quantize(probs * (1.0 / rows), self.grid), self.grid, rows)


class ExportSDPA(nn.Module):
    """``QuantSDPA`` with all four operands in integers."""

    def __init__(
        self,
        q: nn.Module,
        k: nn.Module,
        v: nn.Module,
        probs: nn.Module,
        operators: Operators,
    ) -> None:
        super().__init__()
        self.query, self.key, self.value, self.probs = q, k, v, probs
        self.operators = operators

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0
    ) -> Tensor:
        """Attend; shapes as ``QuantSDPA`` takes them. Nothing is dropped."""
        left, right = self._float(self.query(q)), self._float(self.key(k.transpose(-1, -2)))
        scores = left @ right * q.shape[-1] ** -0.5
        probs: Levels = self.probs((scores if mask is None else scores + mask).softmax(dim=-1))
        result = self._float(probs) @ self._float(self.value(v))
        return result if probs.rows is None else result * probs.rows

    def _float(self, levels: Levels) -> Tensor:
        return self.operators.dequantize(levels.values, levels.grid)


def export_sdpa(core: QuantSDPA, operators: Operators) -> ExportSDPA | None:
    """Attention in integers; None where an operand's point or the dialect allows none."""
    by_role = {point.point.role: point for point in core.points()}
    q, k, v = (static_quantizer(by_role.get(r), operators) for r in ("query", "key", "value"))
    probs = _probs(by_role.get("probs"), operators)
    if not operators.attention or q is None or k is None or v is None or probs is None:
        return None
    return ExportSDPA(q, k, v, probs, operators)


def _probs(point: TensorQuantizer | None, operators: Operators) -> nn.Module | None:
    token = point is not None and point.spec.dynamic and point.spec.uniform
    if point is not None and token and not point.spec.symmetric:
        return TokenProbs(point, operators)
    return static_quantizer(point, operators)


def static_quantizer(point: TensorQuantizer | None, operators: Operators) -> StaticQuantizer | None:
    """What makes levels of a tensor with one scale, in its own coordinates; None for others."""
    rounder = rounder_of(point)
    if not isinstance(rounder, StaticRounder) or rounder.point.transform is not None:
        return None
    return StaticQuantizer(rounder, operators)


def weight_of(layer: QuantLayer) -> IntegerWeight | None:
    """The integers of a layer whose float weight stands for them; None where int8 holds none."""
    point = layer.weight_quantizer
    if point is None or point.transform is not None:
        return None
    levels = point.integers(layer.weight.detach()) - point.spec.quant_min
    found = integer_weight(levels.to(torch.uint8).flatten(1), point)
    return None if isinstance(found, str) else found


class ExportLayer(nn.Module):
    """A layer that no linear stands for: integers where its weight and its input have them.

    Attributes:
        int8_original_dtype: where open_clip looks for the type to compute in.
        weight_quantizer: none; see ``ExportLinear``.
        integers: whether both operands are integers.
    """

    int8_original_dtype = torch.float32
    weight_quantizer = None
    values: Tensor
    scale: Tensor | None
    added: Tensor | None

    def __init__(
        self, layer: QuantLayer, weight: IntegerWeight | None, operators: Operators
    ) -> None:
        super().__init__()
        point, self.output_axis = layer.weight_quantizer, layer.output_axis
        self.quantizer = static_quantizer(layer.input_quantizer, operators)
        self.layer, self.operators = layer, operators
        self.integers = self.quantizer is not None and weight is not None
        values = layer.quantized_weight().detach() if weight is None else weight.values
        self.register_buffer("values", values.view(layer.weight.shape))
        self.register_buffer("scale", None if weight is None else weight.scale)
        self.register_buffer("added", None if point is None else point.correction)

    def forward(self, x: Tensor) -> Tensor:
        """What the layer computes."""
        if self.quantizer is None:
            x = self.layer.quantized_input(x)
        else:
            levels: Levels = self.quantizer(x)
            x = self.operators.dequantize(levels.values, levels.grid)
        y = self.layer.product(x, self._weight())
        return y if self.added is None else y + along(self.added, self.output_axis, y.ndim)

    def _weight(self) -> Tensor:
        """The weight, dequantized only where the input is, too.

        ONNX Runtime takes a DequantizeLinear before a product with a float input as leave to round
        that input to 8 bits.
        """
        if self.scale is None:
            return self.values
        if self.integers:
            return self.operators.weight(self.values, self.scale)
        return self.values.to(self.scale.dtype) * along(self.scale, 0, self.values.ndim)

    def __rmatmul__(self, x: Tensor) -> Tensor:
        result: Tensor = self(x)
        return result
