# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What is done about a layer beside its integers: the ridge before, the bias after."""

import pytest
import torch
from torch import nn

from calibrators.rounding.arrived import Moments, moments
from calibrators.rounding.gptq import Gptq
from calibrators.rounding.layerwise import compensated
from qkit.calibration.registry import ROUNDINGS
from qkit.errors import RegistryError
from qkit.graph.layers import list_layers
from qkit.nn.linear import QuantLinear
from qkit.nn.tensor_quantizer import Mode
from qkit.numerics import qparams_from_range
from qkit.spec import Granularity, QuantSpec, Range, Scheme

WEIGHT = QuantSpec(3, symmetric=True, granularity=Granularity.CHANNEL)
INPUT = QuantSpec(3, granularity=Granularity.TOKEN)


@pytest.fixture
def layer(normal):
    """A linear layer, its input rounded to 3 bits a token and its weight with a scale."""
    model = nn.ModuleDict({"tower": QuantLinear(8, 5)})
    model["tower"].weight = nn.Parameter(normal(5, 8))
    model["tower"].attach("tower", Scheme(WEIGHT, INPUT))
    [found] = list_layers(model, {"image": ("tower",)})
    rows = found.raw_weight
    found.weight_quantizer.set_qparams(
        qparams_from_range(Range(rows.amin(1), rows.amax(1)), WEIGHT)
    )
    return found


@pytest.fixture
def rows(normal):
    """Inputs with a mean far from zero, which 3 bits round badly."""
    return normal(64, 8) + torch.arange(8.0)


def weighed(layer, x):
    """Rows, what they are rounded to, and the weight of each, summing to 1."""
    rounded = layer.rounded(x)
    shares = 1 / rounded.square().sum(1)
    return rounded, (shares / shares.sum())[:, None]


def test_moments_are_those_of_rows_and_of_what_they_are_rounded_to(layer, rows):
    seen = moments(layer, [rows[:40], rows[40:]])
    rounded = layer.rounded(rows)
    shares = 1 / rounded.square().sum(1, keepdim=True)
    torch.testing.assert_close(seen.own, (rounded * shares).T @ rounded)
    torch.testing.assert_close(seen.cross, rows.T @ (rounded * shares))
    torch.testing.assert_close(seen.mean, (rows * shares).sum(0) / shares.sum())
    torch.testing.assert_close(seen.own_mean, (rounded * shares).sum(0) / shares.sum())


def test_a_ridge_solves_its_normal_equations(layer, rows):
    seen, weight, ridge = moments(layer, [rows]), layer.raw_weight, 0.1
    found = compensated(weight, seen, ridge).double()
    held = ridge * seen.own.diagonal().mean()
    slope = (found @ seen.own.double()) - weight.double() @ seen.cross.double()
    torch.testing.assert_close(slope, -held * (found - weight), rtol=1e-4, atol=1e-4)


def test_a_ridge_lowers_the_error_of_the_product_and_a_firm_one_changes_nothing(layer, rows):
    seen, weight = moments(layer, [rows]), layer.raw_weight
    rounded, shares = weighed(layer, rows)

    def error(own):
        return float(((rows @ weight.T - rounded @ own.T).square() * shares).sum())

    assert error(compensated(weight, seen, 1e-3)) < 0.8 * error(weight)
    torch.testing.assert_close(compensated(weight, seen, 1e9), weight)


def test_inputs_that_were_not_rounded_need_no_ridge(layer, normal):
    own = torch.eye(8)
    seen = Moments(own, own, torch.zeros(8), torch.zeros(8))
    torch.testing.assert_close(compensated(layer.raw_weight, seen, 0.1), layer.raw_weight)


def test_with_the_bias_corrected_the_mean_output_is_the_float_one(layer, rows):
    seen = moments(layer, [rows])
    _, shares = weighed(layer, rows)
    wanted = (layer.run_float((rows,)) * shares).sum(0)
    for bias, near in ((False, False), (True, True)):
        _, found = Gptq(bias=bias)._layer(layer, seen)
        assert (found.rounding.correction is not None) is bias
        own = (layer.run_alone((rows,)) * shares).sum(0)
        assert torch.allclose(own, wanted, atol=1e-4) is near
    assert layer.weight_quantizer.mode is Mode.OFF


@pytest.mark.parametrize("name", ["damping", "ridge"])
@pytest.mark.parametrize("method", ["gptq", "adaround"])
def test_a_ridge_or_damping_of_nothing_is_refused(method, name):
    with pytest.raises(RegistryError, match=rf"{name} = 0 is not possible. Use a positive number"):
        ROUNDINGS.create(method, {name: 0})
