# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Layers whose inputs and weights meet in other coordinates, against integers by hand."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from qkit.nn.conv import QuantConv2d
from qkit.nn.kept import added_by
from qkit.nn.linear import QuantLinear
from qkit.nn.tensor_quantizer import Mode
from qkit.numerics import fake_quantize, make_grid, quantize, token_qparams
from qkit.spec import Granularity, QuantSpec, Rounding, Scheme
from tests.nn.coordinates import scales, some_transform

TOKEN4, TOKEN8 = (QuantSpec(bits, granularity=Granularity.TOKEN) for bits in (4, 8))
W8, W4 = (QuantSpec(bits, symmetric=True, granularity=Granularity.CHANNEL) for bits in (8, 4))
INPUTS = {"tensor": QuantSpec(8), "token": TOKEN8}
LAYERS = {"linear": (2, 5, 12), "conv": (2, 3, 6, 8)}


def rows_of(x):
    """An input as rows, made without the layer: 2 x 2 patches of an image."""
    if x.ndim == 3:
        return x
    return x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def build(name, spec, fill, x, transform, weight_spec=W8):
    """A switched-on layer whose points share a transform."""
    module = nn.Linear(12, 5) if name == "linear" else nn.Conv2d(3, 5, 2, stride=2)
    cls = QuantLinear if name == "linear" else QuantConv2d
    layer = cls.from_float(fill(module)).requires_grad_(False)
    layer.attach("a", Scheme(weight=weight_spec, input=spec))
    own, other = layer.input_quantizer, layer.weight_quantizer
    own.set_transform(transform)
    other.set_transform(transform)
    other.set_qparams(scales(other.into(layer.weight).flatten(1), weight_spec, 0))
    if not spec.dynamic:
        own.set_qparams(scales(own.into(rows_of(x)), spec))
    for point in (own, other):
        point.set_mode(Mode.QUANTIZE)
    return layer


def steps(values, q, spec, axis=None):
    """Rounded values as whole steps from zero, and the step, in float64."""
    levels = quantize(values, q, spec, axis).double()
    scale, zero_point = (t.double() if axis is None else t.double()[:, None] for t in q)
    return (levels - zero_point) * scale


@pytest.mark.parametrize("granularity", INPUTS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_what_integers_would(name, granularity, fill, normal):
    spec, transform, x = INPUTS[granularity], some_transform(0.95), normal(*LAYERS[name]) + 1
    layer = build(name, spec, fill, x, transform)
    z, shape = transform.into(rows_of(x)), layer(x).shape
    point = layer.weight_quantizer
    q = token_qparams(z, spec, 0.95) if spec.dynamic else layer.input_quantizer.qparams
    rows = layer.weight.flatten(1)
    weight = steps(transform.weight_into(rows), point.qparams, W8, 0)
    expected = steps(z, q, spec) @ weight.T
    expected += rows.double() @ transform.shift.double() + layer.bias.double()
    if name == "conv":
        expected = expected.transpose(1, 2).reshape(shape)
    torch.testing.assert_close(layer(x).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("granularity", INPUTS)
@pytest.mark.parametrize("name", LAYERS)
def test_eight_bits_are_close_to_float(name, granularity, fill, normal):
    x = normal(*LAYERS[name]) + 1
    layer = build(name, INPUTS[granularity], fill, x, some_transform())
    floats = layer.product(x, layer.weight)
    off = (layer(x) - floats).norm() / floats.norm()
    assert 1e-4 < off < 0.02


@pytest.mark.parametrize("transform", [None, some_transform()], ids=["plain", "transformed"])
def test_every_patch_has_a_scale_of_its_own(transform, fill, normal):
    x = normal(2, 3, 6, 8)
    layer = build("conv", TOKEN4, fill, x, transform)
    before = layer.quantized_input(x)
    changed = x.clone()
    changed[1, :, 2:4, 4:6] *= 30
    after = layer.quantized_input(changed)
    moved = before != after
    inside = torch.zeros_like(moved)
    inside[1, :, 2:4, 4:6] = True
    assert bool(moved[inside].any())
    assert torch.equal(after[~inside], before[~inside])


def test_where_windows_overlap_a_whole_input_has_one_scale(fill, normal):
    spec, x = TOKEN4, normal(2, 3, 6, 8)
    layer = QuantConv2d.from_float(fill(nn.Conv2d(3, 5, 3, padding=1)))
    layer.attach("a", Scheme(input=spec))
    layer.input_quantizer.set_mode(Mode.QUANTIZE)
    flat = x.flatten(1)
    expected = fake_quantize(flat, make_grid(token_qparams(flat, spec), spec)).view_as(x)
    assert torch.equal(layer.quantized_input(x), expected)
    assert not layer.cuts_patches


def test_what_no_patch_covers_stays(fill, normal):
    x, transform = normal(2, 3, 7, 9), some_transform()
    layer = build("conv", TOKEN4, fill, x[..., :6, :8], transform)
    found = layer.quantized_input(x)
    assert torch.equal(found[..., 6:, :], x[..., 6:, :])
    assert torch.equal(found[..., 8:], x[..., 8:])
    assert torch.equal(found[..., :6, :8], layer.quantized_input(x[..., :6, :8]))
    assert torch.equal(layer(x), layer(x[..., :6, :8]))


@pytest.mark.parametrize("correction", [None, torch.linspace(-1, 1, 5)], ids=["nearest", "fixed"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_that_knows_only_its_rounded_weight_gives_the_same(name, correction, fill, normal):
    x = normal(*LAYERS[name]) + 1
    layer = build(name, TOKEN4, fill, x, some_transform(), W4)
    point = layer.weight_quantizer
    levels = point.integers(layer.weight)
    if correction is not None:
        levels = (levels + 1).clamp(max=W4.quant_max)
        point.set_rounding(Rounding(levels, correction))
    expected, values = layer(x), layer.quantized_weight()
    twin = deepcopy(layer)
    twin.weight = nn.Parameter(values.clone(), requires_grad=False)
    twin.weight_quantizer.set_rounding(Rounding(None, added_by(point, layer.weight, values)))
    assert torch.equal(twin.weight_quantizer.integers(twin.weight), levels)
    assert torch.equal(twin.quantized_weight(), values)
    assert torch.equal(twin(x), expected)
    assert (layer.product(x, layer.weight) - expected).abs().max() > 0.01


def test_a_weight_in_training_gives_what_a_frozen_one_does(fill, normal):
    x = normal(*LAYERS["linear"])
    layer = build("linear", TOKEN4, fill, x, some_transform())
    expected = layer(x)
    layer.weight.requires_grad_(True)
    found = layer(x)
    torch.testing.assert_close(found.detach(), expected, rtol=0, atol=1e-6)
    found.sum().backward()
    assert layer.weight.grad.isfinite().all()
    assert layer.weight.grad.any()
