# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Layers multiply whole numbers where no gradient is wanted, and what a float product gives."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from qkit.nn.arrival import Arrival, First
from qkit.nn.conv import QuantConv2d
from qkit.nn.integers import IntegerWeight
from qkit.nn.linear import QuantLinear
from qkit.nn.multihead import QuantMultiheadAttention
from qkit.nn.operand import Operand
from qkit.nn.product import ExactProduct
from qkit.nn.tensor_quantizer import Mode
from qkit.spec import Granularity, GridKind, QParams, QuantSpec, Rounding, Scheme
from tests.nn.coordinates import some_transform

CHANNEL, TOKEN = Granularity.CHANNEL, Granularity.TOKEN
WEIGHT = QuantSpec(8, symmetric=True, granularity=CHANNEL)
WEIGHTS = [WEIGHT, QuantSpec(4, granularity=CHANNEL), QuantSpec(4, True, CHANNEL, GridKind.NORMAL)]
INPUTS = [
    QuantSpec(8),
    QuantSpec(4, symmetric=True),
    QuantSpec(8, granularity=TOKEN),
    QuantSpec(6, symmetric=True, granularity=TOKEN),
    QuantSpec(4, granularity=TOKEN, grid=GridKind.NORMAL),
]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def linear(fill, calibrate, normal):
    """A linear layer with scales, its input of 12 channels."""

    def linear(spec=INPUTS[0], weight=WEIGHT, transform=None):
        layer = fill(QuantLinear(12, 7))
        layer.attach("layer", Scheme(weight, spec))
        for point in (layer.input_quantizer, layer.weight_quantizer):
            point.set_transform(transform)
        x = normal(3, 5, 12)
        if transform is None:
            calibrate(layer, x)
        else:
            scales_in_coordinates(layer, x)
        return layer, x

    return linear


def scales_in_coordinates(layer, x):
    for point, values in ((layer.input_quantizer, x), (layer.weight_quantizer, layer.weight)):
        point.set_mode(Mode.QUANTIZE)
        if not point.spec.dynamic:
            z = point.into(values.detach())
            wide = z.abs().amax(1) if point.spec.granularity is CHANNEL else z.abs().amax()
            step = (
                wide / (point.spec.quant_max - point.spec.quant_min) * 2.02
            )  # no ties at the ends
            middle = 0 if point.spec.symmetric else 1 << (point.spec.bits - 1)
            point.set_qparams(QParams(step, torch.full_like(step, middle, dtype=torch.int32)))


@pytest.mark.parametrize("spec", INPUTS, ids=str)
@pytest.mark.parametrize("weight", WEIGHTS, ids=str)
@pytest.mark.parametrize("moved", [False, True], ids=["", "moved"])
def test_whole_numbers_give_what_rounded_floats_give(linear, spec, weight, moved):
    layer, x = linear(spec, weight, some_transform() if moved else None)
    layer.weight_quantizer.set_rounding(Rounding(None, torch.linspace(-1, 1, 7)))
    with torch.no_grad():
        assert layer.multiplied(Arrival(x, layer.input_quantizer)) is not None
        found = layer(x)
        floats = layer.output(layer.quantized_input(x), layer.quantized_weight())
    torch.testing.assert_close(found, floats, **CLOSE)
    with_gradients = layer(x)
    assert with_gradients.requires_grad
    assert torch.equal(with_gradients, floats)


def test_patches_too(fill, calibrate, normal):
    conv, x = fill(QuantConv2d(2, 5, 3, stride=3)), normal(2, 2, 10, 9)
    for spec in (INPUTS[0], INPUTS[4]):
        conv.attach("conv", Scheme(WEIGHT, spec))
        calibrate(conv, x)
        with torch.no_grad():
            found = conv(x)
            floats = conv.output(conv.quantized_input(x), conv.quantized_weight())
        torch.testing.assert_close(found, floats, **CLOSE)


def test_an_attention_rounds_its_input_once_for_three_layers(fill, calibrate, normal):
    attention = QuantMultiheadAttention.from_float(nn.MultiheadAttention(12, 3, batch_first=True))
    fill(attention)
    attention.attach_inputs("attn", INPUTS[2], None)
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        getattr(attention, name).attach(name, Scheme(WEIGHT, None))
    x = normal(2, 4, 12)
    calibrate(attention, x, x, x, need_weights=False)
    floats = attention(x, x, x, need_weights=False)[0]
    attention.input_quantizer.fired = 0
    with torch.no_grad():
        found = attention(x, x, x, need_weights=False)[0]
    assert attention.input_quantizer.fired == 1
    torch.testing.assert_close(found, floats, **CLOSE)


@pytest.mark.parametrize("spec", INPUTS, ids=str)
def test_the_first_tokens_of_an_arrival(linear, spec):
    layer, x = linear(spec)
    whole = Arrival(x, layer.input_quantizer)
    with torch.no_grad():
        found = layer(x[:, :2], First(whole, 2))
        assert torch.equal(found, layer(x)[:, :2])
        assert torch.equal(First(whole, 2).rounded, whole.rounded[:, :2])


def test_where_whole_numbers_are_not_taken(linear):
    layer, x = linear()
    arrival = SimpleNamespace(of=lambda: Arrival(x, layer.input_quantizer))
    assert arrival.of().operand is None  # gradients
    with torch.no_grad():
        assert arrival.of().operand is not None
        with torch.autocast("cpu", torch.bfloat16):
            assert arrival.of().operand is None
        assert Arrival(x.bfloat16(), layer.input_quantizer).operand is None
        assert Arrival(x[0, 0], layer.input_quantizer).operand is None
        layer.input_quantizer.dropped = 0.5
        assert arrival.of().operand is None
        layer.input_quantizer.dropped = 0.0
        layer.weight_quantizer.learned_weight = layer.weight
        assert layer.multiplied(arrival.of()) is None
        layer.weight_quantizer.learned_weight = None
        for point in (layer.input_quantizer, layer.weight_quantizer):
            point.set_mode(Mode.OFF)
            assert layer.multiplied(arrival.of()) is None
            point.set_mode(Mode.QUANTIZE)


@pytest.mark.parametrize(
    ("spec", "weight"),
    [
        (QuantSpec(4, grid=GridKind.TWIN_SIGNED), WEIGHT),
        (QuantSpec(8, granularity=CHANNEL), WEIGHT),
        (QuantSpec(8), QuantSpec(8, granularity=CHANNEL)),  # zero points take a ninth bit
    ],
    ids=["grid", "channel", "affine"],
)
def test_what_no_kernel_multiplies_stays_a_float_product(linear, spec, weight):
    layer, x = linear(spec, weight)
    with torch.no_grad():
        assert layer.multiplied(Arrival(x, layer.input_quantizer)) is None
        floats = layer.output(layer.quantized_input(x), layer.quantized_weight())
        assert torch.equal(layer(x), floats)


@torch.no_grad()
def test_nothing_stale_is_used(linear):
    layer, x = linear()
    change = {
        "scale": lambda: layer.weight_quantizer.set_qparams(
            layer.weight_quantizer.qparams._replace(scale=torch.full((7,), 0.1))
        ),
        "input": lambda: layer.input_quantizer.set_qparams(
            layer.input_quantizer.qparams._replace(scale=torch.tensor(0.3))
        ),
        "weight": lambda: layer.weight.mul_(0.7),
        "bias": lambda: layer.bias.add_(1.0),
    }
    for name, change_it in change.items():
        before = layer(x)
        change_it()
        after = layer(x)
        assert not torch.equal(before, after), name
        floats = layer.output(layer.quantized_input(x), layer.quantized_weight())
        torch.testing.assert_close(after, floats, **CLOSE)


def test_sums_are_cut_no_more_than_they_must():
    few = ExactProduct(IntegerWeight(torch.full((2, 3000), 7.0), torch.ones(2)), None)
    assert few._together == 3000
    many = ExactProduct(IntegerWeight(torch.full((2, 3000), -128.0), torch.ones(2)), None)
    assert many._together <= 514
    rows = torch.full((1, 3000), 255.0)
    assert many(Operand(rows, 1.0, 0))[0, 0] == torch.tensor(-128.0 * 255 * 3000)
