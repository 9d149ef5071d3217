# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
import pytest
import torch
from torch import nn

from qkit.nn.conv import QuantConv2d
from qkit.nn.embedding import QuantEmbedding
from qkit.nn.linear import QuantLinear, QuantProjection
from qkit.nn.tensor_quantizer import Mode
from qkit.numerics import fake_quantize, make_grid
from qkit.spec import Granularity, PointId, QuantSpec, Scheme

WEIGHT = QuantSpec(4, symmetric=True, granularity=Granularity.CHANNEL)
SCHEME = Scheme(WEIGHT, QuantSpec(8), QuantSpec(8))

FLOATS = {
    "linear": (QuantLinear, lambda: nn.Linear(6, 4), (2, 3, 6)),
    "linear-bare": (QuantLinear, lambda: nn.Linear(6, 4, bias=False), (2, 6)),
    "conv": (
        QuantConv2d,
        lambda: nn.Conv2d(6, 4, 3, stride=2, padding=1, dilation=2, groups=2),
        (2, 6, 9, 9),
    ),
    "conv-bare": (
        QuantConv2d,
        lambda: nn.Conv2d(6, 4, (3, 1), padding="same", padding_mode="circular", bias=False),
        (2, 6, 9, 9),
    ),
    "embedding": (QuantEmbedding, lambda: nn.Embedding(10, 4, padding_idx=3), None),
}


@pytest.fixture(params=FLOATS)
def case(request, fill, normal):
    """Class, float module, its input, and the quantized layer made of it."""
    cls, make, shape = FLOATS[request.param]
    module = fill(make())
    x = torch.tensor([[0, 3], [9, 1]]) if shape is None else normal(*shape)
    return cls, module, x, cls.from_float(module)


def test_without_points_it_is_the_float_module(case):
    _, module, x, layer = case
    assert torch.equal(layer(x), module(x))


def test_points_that_are_off_change_nothing(case):
    _, module, x, layer = case
    layer.attach("name", SCHEME)
    assert torch.equal(layer(x), module(x))


def test_parameters_are_the_very_same_objects(case):
    _, module, _, layer = case
    assert list(layer.state_dict()) == list(module.state_dict())
    ours, theirs = dict(layer.named_parameters()), dict(module.named_parameters())
    assert all(ours[name] is theirs[name] for name in theirs)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_there_and_back(case, training, requires_grad):
    cls, module, x, _ = case
    module.train(training).requires_grad_(requires_grad)
    layer = cls.from_float(module)
    back = layer.to_float()
    assert type(back) is type(module)
    assert repr(back) == repr(module)
    assert (layer.training, back.training) == (training, training)
    assert list(back.state_dict()) == list(module.state_dict())
    ours, theirs = dict(back.named_parameters()), dict(module.named_parameters())
    assert all(ours[name] is theirs[name] for name in theirs)
    assert {p.requires_grad for p in back.parameters()} == {requires_grad}
    assert torch.equal(back(x), module(x))


def test_attached_points_know_their_name_and_spec(case):
    cls, _, _, layer = case
    layer.attach("a.b", SCHEME)
    assert layer.weight_quantizer.point == PointId("a.b", "weight")
    assert (layer.weight_quantizer.spec, layer.weight_quantizer.axis) == (WEIGHT, 0)
    if cls is QuantEmbedding:  # token numbers are integers already
        assert layer.input_quantizer is None
    else:
        assert layer.input_quantizer.point == PointId("a.b", "input")
        assert layer.input_quantizer.axis == (1 if cls is QuantConv2d else -1)
    layer.attach("a.b", Scheme())
    assert layer.weight_quantizer is layer.input_quantizer is None


def test_points_round_the_operands_and_not_the_bias(case, calibrate):
    cls, module, x, layer = case
    layer.attach("name", SCHEME)
    calibrate(layer, x)
    q = layer.weight_quantizer.qparams
    rounded = cls.from_float(module).to_float()
    grid = make_grid(q, WEIGHT, 0, module.weight.ndim)
    rounded.weight = nn.Parameter(fake_quantize(module.weight.detach(), grid))
    if layer.input_quantizer is not None:
        q = layer.input_quantizer.qparams
        x = fake_quantize(x, make_grid(q, layer.input_quantizer.spec))
    assert torch.equal(layer(x), rounded(x))
    assert not torch.equal(layer(x), module(x))


def test_padding_row_of_a_trained_table_gets_no_gradient(fill):
    layer = QuantEmbedding.from_float(fill(nn.Embedding(10, 4, padding_idx=3)))
    layer(torch.tensor([3, 5])).sum().backward()
    assert layer.weight.grad.sum(1).tolist() == [0, 0, 0, 0, 0, 4, 0, 0, 0, 0]


def test_conv_input_channels_are_those_of_axis_one(normal, calibrate):
    layer = QuantConv2d.from_float(nn.Conv2d(6, 4, 3))
    layer.attach("name", Scheme(input=QuantSpec(8, granularity=Granularity.CHANNEL)))
    x = normal(2, 6, 9, 9) * torch.arange(1.0, 7.0)[:, None, None]
    calibrate(layer, x)
    assert layer.input_quantizer.qparams.scale.shape == (6,)
    spread = x.amax(dim=(0, 2, 3)) - x.amin(dim=(0, 2, 3))
    torch.testing.assert_close(layer.input_quantizer.qparams.scale, spread / 255)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_projection_stands_in_for_its_parameter(normal, requires_grad):
    parameter = nn.Parameter(normal(6, 4), requires_grad=requires_grad)
    projection = QuantProjection.from_parameter(parameter, ("class_embedding", "proj"))
    for x in (normal(2, 6), normal(2, 3, 6)):
        torch.testing.assert_close(x @ projection, x @ parameter, rtol=1e-6, atol=1e-6)
    assert (projection.in_features, projection.out_features) == (6, 4)
    assert projection.weight.requires_grad is requires_grad
    back = projection.to_parameter()
    assert isinstance(back, nn.Parameter)
    assert torch.equal(back, parameter)
    assert back.requires_grad is requires_grad
    assert back.is_contiguous()
    assert projection.order == ("class_embedding", "proj")


def test_projection_is_quantized_per_output(normal, calibrate):
    projection = QuantProjection.from_parameter(nn.Parameter(normal(6, 4)), ())
    projection.attach("visual.proj", SCHEME)
    x = normal(2, 6)
    calibrate(projection, x)
    assert projection.weight_quantizer.qparams.scale.shape == (4,)
    assert projection.weight_quantizer.mode is Mode.QUANTIZE
    assert torch.equal(x @ projection, projection(x))
    assert projection.input_quantizer.fired == 2
