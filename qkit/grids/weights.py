# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Weights to integers and back, whatever their grid."""

from __future__ import annotations

import torch
from torch import Tensor

from qkit.grids.codebook import grid_of
from qkit.grids.normal import ScaledCodebook
from qkit.numerics import dequantize, quantize
from qkit.spec import QParams, QuantSpec


def weight_integers(weight: Tensor, q: QParams, spec: QuantSpec, axis: int) -> Tensor:
    """The integers, int16, nearest to ``weight``, whose channels run along ``axis``."""
    if spec.uniform:
        return quantize(weight, q, spec, axis)
    return (_book(q, spec, axis, weight.ndim).codes(weight) + spec.quant_min).to(torch.int16)


def weight_values(integers: Tensor, q: QParams, spec: QuantSpec, axis: int) -> Tensor:
    """Inverse of ``weight_integers``: the rounded weight, bit for bit."""
    if spec.uniform:
        return dequantize(integers, q, spec, axis)
    return _book(q, spec, axis, integers.ndim).values(integers - spec.quant_min)


def _book(q: QParams, spec: QuantSpec, axis: int, ndim: int) -> ScaledCodebook:
    book = grid_of(q, spec, axis, ndim)
    assert isinstance(book, ScaledCodebook)  # recipes refuse all others for weights
    return book
