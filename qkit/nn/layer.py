# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What all layers with a weight share: the two points, and a weight that is rounded only once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from qkit.nn.tensor_quantizer import Mode, TensorQuantizer
from qkit.numerics import along
from qkit.spec import PointId, Scheme


@dataclass(frozen=True, slots=True)
class _Rounded:
    """A rounded weight and what it was made from, so that a stale one is never used."""

    values: Tensor
    added: Tensor | None
    weight: Tensor
    weight_version: int
    quantizer: TensorQuantizer
    quantizer_version: int

    @classmethod
    def make(cls, weight: Tensor, quantizer: TensorQuantizer) -> Self:
        # a tensor born in inference mode could never take part in training
        with torch.inference_mode(False), torch.no_grad():
            values = quantizer.round(weight.detach()).add(0.0)  # -0.0 is stored as 0.0
            added = added_by(quantizer, weight.detach(), values)
        return cls(values, added, weight, weight._version, quantizer, quantizer.version)

    def is_of(self, weight: Tensor, quantizer: TensorQuantizer) -> bool:
        same = self.weight is weight and self.quantizer is quantizer
        versions = (self.weight_version, self.quantizer_version)
        return same and versions == (weight._version, quantizer.version)


def mean_offset(quantizer: TensorQuantizer, weight: Tensor, rounded: Tensor) -> Tensor | None:
    """What a centred input's mean lacks behind a rounded weight, ``(out,)``; None if not centred.

    The mean is known beforehand, so it passes the float weight and joins the bias. A rounded weight
    that is folded meets an input without its mean, so all of it is lacking there.
    """
    transform = quantizer.transform
    if transform is None or transform.shift is None:
        return None
    if quantizer.folded:
        return weight.flatten(1) @ transform.shift
    return (weight - rounded).flatten(1) @ transform.shift


def added_by(quantizer: TensorQuantizer, weight: Tensor, rounded: Tensor) -> Tensor | None:
    """What a weight's rounding adds to its layer's output, ``(out,)``; None for nothing."""
    offset = mean_offset(quantizer, weight, rounded)
    correction = quantizer.correction
    if offset is None or correction is None:
        return correction if offset is None else offset
    return correction + offset


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
        self._rounded: _Rounded | None = None

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
            self._rounded = _Rounded.make(self.weight, quantizer)
        return self._rounded.values

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
        self._rounded = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self
