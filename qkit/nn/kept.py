# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What is made of a weight once and kept while nothing that it was made from changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from qkit.nn.integers import integer_bias, integer_weight
from qkit.nn.product import ExactProduct
from qkit.nn.tensor_quantizer import TensorQuantizer


@dataclass(frozen=True, slots=True)
class KeptValues:
    """A rounded weight in float, what its layer adds, and what it was made from."""

    values: Tensor
    added: Tensor | None
    weight: Tensor
    weight_version: int
    quantizer: TensorQuantizer
    quantizer_version: int

    @classmethod
    def make(cls, weight: Tensor, quantizer: TensorQuantizer) -> Self:
        """Round ``weight``."""
        # a tensor born in inference mode could never take part in training
        with torch.inference_mode(False), torch.no_grad():
            values = quantizer.round(weight.detach()).add(0.0)  # -0.0 is stored as 0.0
            added = added_by(quantizer, weight.detach(), values)
        return cls(values, added, weight, weight._version, quantizer, quantizer.version)

    def is_of(self, weight: Tensor, quantizer: TensorQuantizer) -> bool:
        """Whether it was made from these as they are now."""
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


@dataclass(frozen=True, slots=True)
class KeptProduct:
    """A rounded weight and its bias as integers, and what they were made from."""

    product: ExactProduct | None
    weight: Tensor
    bias: Tensor | None
    quantizer: TensorQuantizer
    versions: tuple[int, int, int]

    @classmethod
    def make(cls, weight: Tensor, bias: Tensor | None, quantizer: TensorQuantizer) -> Self:
        """Round ``weight``; there is no product where it takes more than 8 bits."""
        with torch.inference_mode(False), torch.no_grad():
            product = _product(weight.detach(), bias, quantizer)
        return cls(product, weight, bias, quantizer, _versions(weight, bias, quantizer))

    def is_of(self, weight: Tensor, bias: Tensor | None, quantizer: TensorQuantizer) -> bool:
        """Whether it was made from these as they are now."""
        same = self.weight is weight and self.bias is bias and self.quantizer is quantizer
        return same and self.versions == _versions(weight, bias, quantizer)


def _versions(
    weight: Tensor, bias: Tensor | None, quantizer: TensorQuantizer
) -> tuple[int, int, int]:
    return weight._version, 0 if bias is None else bias._version, quantizer.version


def _product(
    weight: Tensor, bias: Tensor | None, quantizer: TensorQuantizer
) -> ExactProduct | None:
    codes = quantizer.integers(weight) - quantizer.spec.quant_min
    whole = integer_weight(codes.to(torch.uint8).flatten(1), quantizer)
    if isinstance(whole, str):
        return None
    whole = whole._replace(values=whole.values.float())
    centred = quantizer.transform is not None and quantizer.transform.shift is not None
    added = quantizer.correction
    if centred:
        added = added_by(quantizer, weight, quantizer.round(weight).add(0.0))
    return ExactProduct(whole, integer_bias(whole, bias, added, quantizer.transform))
