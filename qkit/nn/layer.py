# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What all layers with a weight share: the two points, and a weight that is rounded only once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from qkit.nn.arrival import Arrival
from qkit.nn.kept import KeptProduct, KeptValues, added_by
from qkit.nn.product import ExactProduct
from qkit.nn.tensor_quantizer import Mode, TensorQuantizer
from qkit.numerics import along
from qkit.spec import PointId, Scheme


class QuantLayer(nn.Module):
    """Mixed in before a float class: ``class QuantLinear(QuantLayer, nn.Linear)``.

    Without points it computes what the float class computes. The float parameters stay in place,
    names and ``requires_grad`` included, so open_clip's own look-ups (``c_fc.weight.dtype``) work.

    Attributes:
        input_axis: channel axis of the input; None for a layer whose input is no float tensor.
        output_axis: channel axis of the output.
    """

    input_axis: ClassVar[int | None] = -1
    output_axis: ClassVar[int] = -1
    weight: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.input_quantizer: TensorQuantizer | None = None
        self.weight_quantizer: TensorQuantizer | None = None
        self._rounded: KeptValues | None = None
        self._exact: KeptProduct | None = None

    @classmethod
    @abstractmethod
    def from_float(cls, module: Any) -> Self:
        """Take over the parameters of a float module."""

    @abstractmethod
    def to_float(self) -> nn.Module:
        """Give the parameters back to a float module."""

    @abstractmethod
    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """What the layer computes of an input and a weight; nothing is rounded."""

    def attach(self, name: str, scheme: Scheme) -> None:
        """Create the points that ``scheme`` asks for; ``name`` is this module's path."""
        self.input_quantizer = self.weight_quantizer = None
        if scheme.weight is not None:
            self.weight_quantizer = TensorQuantizer(PointId(name, "weight"), scheme.weight, axis=0)
        if scheme.input is not None and self.input_axis is not None:
            point = PointId(name, "input")
            self.input_quantizer = TensorQuantizer(point, scheme.input, self.input_axis)

    def quantized_input(self, x: Tensor) -> Tensor:
        """Pass ``x`` through the input point, if there is one."""
        return x if self.input_quantizer is None else self.input_quantizer(x)

    def quantized_weight(self) -> Tensor:
        """The weight as the integers represent it, same shape; computed once for a frozen weight.

        A weight, or its scale, that is being trained is rounded at every call, with a
        straight-through gradient.
        """
        quantizer = self.weight_quantizer
        if quantizer is None or quantizer.mode is Mode.OFF:
            return self.weight
        quantizer.fired += 1
        if quantizer.mode is Mode.OBSERVE:
            return self.weight
        trained = self.weight.requires_grad and torch.is_grad_enabled()
        if trained or quantizer.learns:
            return quantizer.round(self.weight)
        if self._rounded is None or not self._rounded.is_of(self.weight, quantizer):
            self._rounded = KeptValues.make(self.weight, quantizer)
        return self._rounded.values

    def multiplied(self, arrival: Arrival) -> Tensor | None:
        """What integers give for an input, ``(rows, out)``; None where there are none.

        The bits are those of an integer kernel; sums of floats would be off in the last place, and
        the layers behind amplify that by rounding.
        """
        point = self.weight_quantizer
        if point is None or point.mode is not Mode.QUANTIZE or point.learns:
            return None
        operand = arrival.operand
        product = None if operand is None else self._product(point)
        if operand is None or product is None:
            return None
        point.fired += 1
        return product(operand)

    def _product(self, point: TensorQuantizer) -> ExactProduct | None:
        """The product of the rounded weight; None where it does not fit 8 bits."""
        bias: Tensor | None = getattr(self, "bias", None)
        if self._exact is None or not self._exact.is_of(self.weight, bias, point):
            self._exact = KeptProduct.make(self.weight, bias, point)
        return self._exact.product

    def output(self, x: Tensor, weight: Tensor) -> Tensor:
        """What the layer returns for an input and a weight that stands for a rounded one."""
        y, quantizer = self.product(x, weight), self.weight_quantizer
        if quantizer is None or quantizer.mode is not Mode.QUANTIZE:
            return y
        known = self._rounded
        cached = known is not None and known.values is weight
        added = known.added if known and cached else added_by(quantizer, self.weight, weight)
        return y if added is None else y + along(added, self.output_axis, y.ndim)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._rounded = self._exact = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self
