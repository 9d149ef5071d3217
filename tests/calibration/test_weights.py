# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A weight that is being learned: where it starts, how gradients reach it, what is left."""

import pytest
import torch
from torch import nn

from qkit.calibration.memory import as_tensors, from_tensors
from qkit.calibration.weights import LearnedWeight, applied, dropping, open_weights, put
from qkit.errors import CalibrationError
from qkit.graph.layers import list_layers
from qkit.nn.linear import QuantLinear
from qkit.nn.tensor_quantizer import Mode
from qkit.numerics import qparams_from_range
from qkit.spec import Granularity, GridKind, QuantSpec, Range, Scheme
from qkit.transform import Transform

SPECS = [
    QuantSpec(4, symmetric, granularity)
    for symmetric in (True, False)
    for granularity in (Granularity.CHANNEL, Granularity.TENSOR)
]
NORMAL = QuantSpec(4, True, Granularity.CHANNEL, GridKind.NORMAL)
SPECS.append(NORMAL)
INPUT = QuantSpec(4, granularity=Granularity.TOKEN)


@pytest.fixture
def layer(normal):
    """Makes a linear layer whose weight has a scale, and whose input is rounded per token."""

    def layer(spec=SPECS[0], transform=None):
        model = nn.ModuleDict({"tower": QuantLinear(8, 5)})
        model["tower"].weight = nn.Parameter(normal(5, 8))
        model["tower"].attach("tower", Scheme(spec, INPUT))
        [found] = list_layers(model, {"image": ("tower",)})
        point = found.weight_quantizer
        for one in found.points:
            one.set_transform(transform)
            one.set_mode(Mode.QUANTIZE)
        rows = found.weight_rows
        low, high = (
            rows.aminmax() if spec.granularity is Granularity.TENSOR else rows.aminmax(dim=1)
        )
        point.set_qparams(qparams_from_range(Range(low, high), spec))
        return found

    return layer


def centred(normal):
    rotation = torch.linalg.qr(normal(8, 8))[0]
    return Transform(normal(8), normal(8).exp(), after=(rotation,))


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("moved", [False, True])
def test_at_first_nothing_changes(layer, normal, spec, moved):
    made, x = layer(spec, centred(normal) if moved else None), normal(3, 8)
    before = made.module(x)
    weight = LearnedWeight(made)
    with applied([weight]):
        torch.testing.assert_close(made.module(x), before)
    assert torch.equal(made.module(x), before)
    put([made], {made.weight_quantizer.point: weight.rounded()})
    torch.testing.assert_close(made.module(x), before)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_gradients_reach_all_that_is_learned_and_no_parameter(layer, normal, spec):
    made, x = layer(spec, centred(normal)), normal(3, 8)
    made.module.requires_grad_(False)
    weight = LearnedWeight(made)
    with applied([weight]):
        made.module(x).square().sum().backward()
    for tensor in (weight.latent, weight.growth, weight.correction):
        assert bool((tensor.grad != 0).any())
    assert made.module.weight.grad is None


def test_the_gradient_of_a_latent_value_is_that_of_the_weight_times_its_scale(layer, normal):
    made, x = layer(), normal(3, 8)
    weight = LearnedWeight(made)
    with applied([weight]):
        made.module(x).sum().backward()
    rounded = made.input_quantizers[0].round(x).sum(0)
    scale = made.weight_quantizer.qparams.scale[:, None]
    torch.testing.assert_close(weight.latent.grad, (scale * rounded).expand(5, 8))


def test_what_was_moved_is_what_the_layer_then_computes(layer, normal):
    made, x = layer(transform=centred(normal)), normal(3, 8)
    weight = LearnedWeight(made)
    with torch.no_grad():
        weight.latent += 3 * normal(5, 8)
        weight.growth += 0.2
        weight.correction += 1.0
    with applied([weight]):
        wanted = made.module(x).detach()
    put([made], from_tensors(as_tensors({made.weight_quantizer.point: weight.rounded()})))
    torch.testing.assert_close(made.module(x), wanted)
    spec, levels = made.weight_quantizer.spec, made.weight_quantizer.levels
    assert spec.quant_min <= int(levels.min()) <= int(levels.max()) <= spec.quant_max


def test_a_value_starts_near_its_integer_on_the_side_of_the_float_one(layer):
    made = layer()
    weight, point = LearnedWeight(made), made.weight_quantizer
    levels = point.integers(made.module.weight.detach()).float()  # of a symmetric uniform grid
    exact = made.raw_weight / point.qparams.scale[:, None]
    off = weight.latent.detach() - levels
    assert float(off.abs().max()) <= 0.45 + 1e-6
    assert bool((off * (exact - levels) >= 0).all())
    inside = levels.abs() < 7
    assert bool((off.sign() == (exact - levels).sign())[inside].all())


def test_weights_in_float_cannot_be_learned(layer):
    made = layer()
    made.module.weight_quantizer = None
    assert open_weights([made]) == []
    with pytest.raises(CalibrationError, match=r"the weight of tower stays in float"):
        LearnedWeight(made)


def test_an_error_inside_leaves_the_points_as_they_were(layer, normal):
    made, x = layer(), normal(3, 8)
    before = made.module(x)
    with pytest.raises(ZeroDivisionError), applied([LearnedWeight(made)]), dropping([made], 0.5):
        raise ZeroDivisionError
    assert torch.equal(made.module(x), before)


def test_dropped_values_stay_unrounded_and_no_others(layer, normal):
    made, x = layer(), normal(64, 8)
    point = made.input_quantizers[0]
    rounded = point.round(x)
    with dropping([made], 0.25):
        found = point.round(x)
    kept = found == x
    assert torch.equal(found[~kept], rounded[~kept])
    assert 0.15 < float(kept.float().mean()) < 0.35
    assert torch.equal(point.round(x), rounded)
