# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Layers that multiply in the coordinates of their rounding, against those that go back."""

import pytest
import torch
from torch import nn

from qkit.graph.folded import folded
from qkit.graph.layers import list_points
from qkit.nn.linear import QuantLinear
from qkit.nn.tensor_quantizer import Mode
from qkit.spec import Granularity, QuantSpec, Rounding, Scheme
from tests.nn.coordinates import scales, some_transform

TOKEN = QuantSpec(8, granularity=Granularity.TOKEN)
WEIGHT = QuantSpec(4, symmetric=True, granularity=Granularity.CHANNEL)


@pytest.fixture(params=[TOKEN, QuantSpec(8)], ids=["token", "tensor"])
def layer(request, fill, normal):
    """A layer in a model, with coordinates of its own and a mean that is taken off."""
    made = QuantLinear.from_float(fill(nn.Linear(12, 5))).requires_grad_(False)
    made.attach("a", Scheme(weight=WEIGHT, input=request.param))
    point, weight = made.input_quantizer, made.weight_quantizer
    for one in (point, weight):
        one.set_transform(some_transform(0.95))
        one.set_mode(Mode.QUANTIZE)
    weight.set_qparams(scales(weight.into(made.weight), WEIGHT, 0))
    if not request.param.dynamic:
        point.set_qparams(scales(point.into(normal(2, 5, 12)), request.param))
    return made


@pytest.mark.parametrize("chosen", [False, True], ids=["nearest", "chosen"])
def test_the_result_and_its_gradient_are_the_same(layer, normal, chosen):
    if chosen:
        point = layer.weight_quantizer
        levels = point.integers(layer.weight).flip(0)
        point.set_rounding(Rounding(levels, torch.arange(5.0)))
    model, x = nn.Sequential(layer), normal(2, 5, 12).requires_grad_()
    wanted = model(x)
    (grad,) = torch.autograd.grad(wanted.square().sum(), x)
    with folded(model):
        found = model(x)
        (other,) = torch.autograd.grad(found.square().sum(), x)
        back = layer.input_quantizer(x)
        assert not torch.allclose(back, x, atol=0.1)  # it stays in its coordinates
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(other, grad, atol=1e-3, rtol=1e-3)
    assert torch.equal(model(x), wanted)


def test_an_input_that_meets_a_float_weight_goes_back(layer, normal):
    layer.weight_quantizer = None
    model, x = nn.Sequential(layer), normal(2, 5, 12)
    wanted = model(x)
    with folded(model):
        assert not any(point.folded for point in list_points(model))
        assert torch.equal(model(x), wanted)


def test_after_an_error_nothing_is_folded(layer):
    model = nn.Sequential(layer)

    def stop():
        with folded(model):
            assert all(point.folded for point in list_points(model))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert not any(point.folded for point in list_points(model))
