# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What was learned of a point: gain and shift before rounding, and a scale in place of its own."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qkit.nn.linear import QuantLinear
from qkit.nn.tensor_quantizer import Mode, TensorQuantizer
from qkit.numerics import (
    fake_quantize,
    learned_fake_quantize,
    make_grid,
    qparams_from_range,
    token_qparams,
)
from qkit.spec import Affine, Granularity, PointId, QParams, QuantSpec, Range, Scheme

SPECS = {
    "affine": QuantSpec(4),
    "symmetric": QuantSpec(4, symmetric=True),
    "channel": QuantSpec(3, granularity=Granularity.CHANNEL),
    "token": QuantSpec(4, granularity=Granularity.TOKEN),
}
AFFINE = Affine(torch.linspace(0.5, 2.0, 6), torch.linspace(-1.0, 1.0, 6))


def make(spec):
    """A point for six channels, switched on."""
    point = TensorQuantizer(PointId("a", "input"), spec, axis=-1)
    if not spec.dynamic:
        shape = (6,) if spec.granularity is Granularity.CHANNEL else ()
        ends = Range(torch.full(shape, -1.5), torch.full(shape, 2.0))
        point.set_qparams(qparams_from_range(ends, spec))
    point.set_mode(Mode.QUANTIZE)
    return point


def grid(point, x):
    if point.spec.dynamic:
        return make_grid(token_qparams(x, point.spec), point.spec)
    axis = -1 if point.qparams.scale.ndim else None
    return make_grid(point.qparams, point.spec, axis, x.ndim)


@pytest.fixture(params=SPECS)
def point(request):
    """A switched-on point of every kind."""
    return make(SPECS[request.param])


def test_gain_and_shift_come_before_rounding(point, normal):
    for x in (normal(3, 6), normal(2, 3, 6)):
        plain = point(x)
        point.set_affine(AFFINE)
        moved = x * AFFINE.gain + AFFINE.shift
        assert torch.equal(point(x), fake_quantize(moved, grid(point, moved)))
        assert not torch.equal(point(x), plain)
        point.set_affine(None)
        assert torch.equal(point(x), plain)
    assert point.gain is point.shift is None


def test_they_come_and_go_with_the_rounding(point, normal):
    x = normal(3, 6)
    point.set_affine(AFFINE)
    point.set_mode(Mode.OFF)
    assert point(x) is x
    point.set_mode(Mode.OBSERVE)
    assert point(x) is x
    if not point.spec.dynamic:
        stats = point.stats()
        assert stats.min_val.min() == x.min()
        assert stats.max_val.max() == x.max()


def test_one_and_zero_change_nothing(point, normal):
    x = normal(3, 6)
    plain = point(x)
    point.set_affine(Affine(torch.ones(6), torch.zeros(6)))
    assert torch.equal(point(x), plain)


def test_equal_to_a_layer_norm_whose_own_affine_was_changed(point, fill, normal):
    """Gain and shift may be folded: that is why they cost nothing in an integer kernel."""
    norm, x = fill(nn.LayerNorm(6)).requires_grad_(False), 3 * normal(50, 6) + 1
    folded = deepcopy(norm)
    folded.weight.mul_(AFFINE.gain)
    folded.bias.mul_(AFFINE.gain).add_(AFFINE.shift)
    expected = point(folded(x))
    off = (point(norm(x)) != expected).float().mean()
    point.set_affine(AFFINE)
    found = point(norm(x))
    if point.spec.dynamic:  # the scale moves with the last bit of the token's range
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(found, expected)
    assert off > 0.1


def test_positions_are_where_rounding_looks(point, normal):
    x = normal(40, 6) * 2
    point.set_affine(AFFINE)
    q = token_qparams(x * AFFINE.gain + AFFINE.shift, point.spec)
    scale, zero_point = q if point.spec.dynamic else point.qparams
    spec = point.spec
    levels = point.positions(x).round().clamp(0, (1 << spec.bits) - 1)
    expected = (levels + spec.quant_min - zero_point) * scale
    torch.testing.assert_close(point.round(x), expected, rtol=1e-6, atol=1e-7)
    assert point.fired == 0


def test_a_learned_scale_stands_in_for_the_installed_one(normal):
    for name in ("affine", "symmetric", "channel"):
        point, x = make(SPECS[name]), normal(5, 6)
        before = point(x)
        scale = (point.qparams.scale * 0.7).requires_grad_()
        point.learned_scale = scale
        q = QParams(scale, point.qparams.zero_point)
        assert torch.equal(point(x), learned_fake_quantize(x, q, point.spec))
        torch.testing.assert_close(
            point.positions(x), x / scale + (q.zero_point - point.spec.quant_min)
        )
        point(x).square().sum().backward()
        assert bool((scale.grad != 0).all())
        point.learned_scale = None
        assert torch.equal(point(x), before)


@pytest.fixture
def layer(fill):
    """A linear layer whose weight is rounded, frozen."""
    layer = QuantLinear.from_float(fill(nn.Linear(6, 4))).requires_grad_(False)
    spec = QuantSpec(4, symmetric=True, granularity=Granularity.CHANNEL)
    layer.attach("a", Scheme(weight=spec, input=QuantSpec(8)))
    ends = Range(layer.weight.amin(1), layer.weight.amax(1))
    layer.weight_quantizer.set_qparams(qparams_from_range(ends, spec))
    layer.weight_quantizer.set_mode(Mode.QUANTIZE)
    return layer


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("warm", [True, False])
def test_a_learned_weight_is_neither_taken_from_the_cache_nor_put_there(layer, grad, warm):
    point = layer.weight_quantizer
    installed = fake_quantize(layer.weight, make_grid(point.qparams, point.spec, 0, 2))
    if warm:
        layer.quantized_weight()
    for factor in (0.5, 0.8):
        scale = (point.qparams.scale * factor).requires_grad_()
        point.learned_scale = scale
        q = QParams(scale[:, None], torch.zeros(4, 1, dtype=torch.int32))
        with torch.set_grad_enabled(grad):
            found = layer.quantized_weight()
        assert torch.equal(found, learned_fake_quantize(layer.weight, q, point.spec))
        assert found.requires_grad is grad
        point.learned_scale = None
        assert torch.equal(layer.quantized_weight(), installed)


def test_they_travel_with_the_module(layer, normal):
    point = layer.input_quantizer
    point.set_qparams(QParams(torch.tensor(0.01), torch.tensor(128, dtype=torch.int32)))
    point.set_mode(Mode.QUANTIZE)
    point.set_affine(AFFINE)
    x = normal(3, 6)
    expected = layer(x)
    moved = fake_quantize(x * AFFINE.gain + AFFINE.shift, make_grid(point.qparams, point.spec))
    assert torch.equal(expected, F.linear(moved, layer.quantized_weight(), layer.bias))
    state = layer.state_dict()
    assert torch.equal(state["input_quantizer.gain"], AFFINE.gain)
    assert torch.equal(state["input_quantizer.shift"], AFFINE.shift)
    twin = deepcopy(layer)
    twin.input_quantizer.gain.mul_(2)
    assert torch.equal(layer(x), expected)
    assert not torch.equal(twin(x), expected)
    twin.load_state_dict(state)
    assert torch.equal(twin(x), expected)
    assert layer.double()(x.double()).dtype == torch.float64
    layer.to("meta")
    assert {point.gain.device.type, point.shift.device.type} == {"meta"}


def test_a_point_without_them_has_none_in_its_state():
    assert set(make(QuantSpec(4)).state_dict()) == {"scale", "zero_point"}
