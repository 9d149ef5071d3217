# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Stored integers as operands, against the float weight that the reference makes of them."""

import pytest
import torch

from qkit.nn.integers import integer_weight
from qkit.nn.tensor_quantizer import TensorQuantizer
from qkit.spec import GridKind, PointId, QParams, QuantSpec

SHAPE = (6, 15)


def stored(spec, scale, zero):
    """A point with scales, integers that use all levels, and how they are stored."""
    point = TensorQuantizer(PointId("layer", "weight"), spec, axis=0)
    point.set_qparams(QParams(scale, zero))
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 1 << spec.bits, SHAPE, generator=generator)
    codes.view(-1)[:2] = torch.tensor([0, (1 << spec.bits) - 1])
    return point, (codes + spec.quant_min).to(torch.int16), codes.to(torch.uint8)


def same(point, levels, codes):
    weight = integer_weight(codes, point)
    assert weight.values.dtype == torch.int8
    assert weight.values.is_contiguous()
    found = weight.values.float() * weight.scale[:, None]
    torch.testing.assert_close(found, point.dequantized(levels).flatten(1), rtol=3e-7, atol=0)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("channels", [True, False], ids=["channel", "tensor"])
def test_symmetric_weights(bits, channels):
    scale = torch.rand(6) + 0.1 if channels else torch.tensor(0.3)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    same(*stored(QuantSpec(bits, symmetric=True), scale, zero))


@pytest.mark.parametrize("bits", range(2, 7))
def test_normal_weights(bits):
    spec = QuantSpec(bits, symmetric=True, grid=GridKind.NORMAL)
    same(*stored(spec, torch.rand(6) + 0.1, torch.zeros(6, dtype=torch.int32)))


@pytest.mark.parametrize("bits", range(2, 8))
def test_affine_weights_of_fewer_than_8_bits(bits):
    zero = torch.tensor([0, 1, 2, 3, 3, (1 << bits) - 1], dtype=torch.int32)
    same(*stored(QuantSpec(bits), torch.rand(6) + 0.1, zero))


def test_affine_weights_of_8_bits_fit_around_the_middle():
    same(*stored(QuantSpec(8), torch.rand(6) + 0.1, torch.full((6,), 128, dtype=torch.int32)))


@pytest.mark.parametrize("zero", [127, 129])
def test_affine_weights_that_do_not_fit_say_so(zero):
    zeros = torch.tensor([128] * 5 + [zero], dtype=torch.int32)
    point, _, codes = stored(QuantSpec(8), torch.rand(6) + 0.1, zeros)
    assert "more than 8 bits" in integer_weight(codes, point)
