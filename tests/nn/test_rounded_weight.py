# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A frozen weight is rounded once and never used when stale; a trained one passes its gradient."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from qkit.nn.linear import QuantLinear
from qkit.nn.tensor_quantizer import Mode
from qkit.numerics import Grid, fake_quantize, make_grid, qparams_from_range
from qkit.observers import weight_stats
from qkit.spec import Granularity, QuantSpec, Range, Scheme

W8, W2 = (QuantSpec(bits, symmetric=True, granularity=Granularity.CHANNEL) for bits in (8, 2))


def install(layer, spec, widen=1.0):
    stats = weight_stats(layer.weight, spec.granularity)
    q = qparams_from_range(Range(stats.min_val * widen, stats.max_val * widen), spec)
    layer.weight_quantizer.set_qparams(q)
    layer.weight_quantizer.set_mode(Mode.QUANTIZE)


def rounded(layer):
    """The weight rounded afresh."""
    point = layer.weight_quantizer
    return fake_quantize(layer.weight.detach(), make_grid(point.qparams, point.spec, 0, 2))


@pytest.fixture
def layer(fill):
    layer = QuantLinear.from_float(fill(nn.Linear(6, 4))).requires_grad_(False)
    layer.attach("name", Scheme(weight=W8))
    install(layer, W8)
    return layer


@pytest.fixture
def roundings(monkeypatch):
    """Grows by one entry whenever any tensor is rounded."""
    calls = []

    def counted(grid, x):
        calls.append(x)
        return fake_quantize(x, grid)

    monkeypatch.setattr(Grid, "round", counted)
    return calls


def test_frozen_weight_is_rounded_once(layer, normal, roundings):
    expected = rounded(layer)
    for mode in (Mode.QUANTIZE, Mode.OFF, Mode.QUANTIZE, Mode.OBSERVE, Mode.QUANTIZE):
        layer.weight_quantizer.set_mode(mode)
        for _ in range(3):
            layer(normal(2, 6))
        if mode is Mode.QUANTIZE:
            assert torch.equal(layer.quantized_weight(), expected)
        else:
            assert layer.quantized_weight() is layer.weight
    assert len(roundings) == 1


def test_weight_that_could_be_trained_is_rounded_once_while_nothing_is(layer, normal, roundings):
    layer.requires_grad_(True)
    with torch.no_grad():
        for _ in range(3):
            layer(normal(2, 6))
    assert len(roundings) == 1


def test_weight_point_counts_its_calls(layer, normal):
    for _ in range(3):
        layer(normal(2, 6))
    assert layer.weight_quantizer.fired == 3


def test_new_scale_rounds_again(layer, roundings):
    before = layer.quantized_weight()
    install(layer, W8, widen=0.5)
    assert torch.equal(layer.quantized_weight(), rounded(layer))
    assert not torch.equal(layer.quantized_weight(), before)
    assert len(roundings) == 2


def test_changed_weight_rounds_again(layer, roundings):
    before = layer.quantized_weight()
    layer.weight.mul_(0.5)
    assert torch.equal(layer.quantized_weight(), rounded(layer))
    assert not torch.equal(layer.quantized_weight(), before)
    assert len(roundings) == 2


def test_loaded_weight_rounds_again(layer, normal):
    layer.quantized_weight()
    state = layer.state_dict() | {"weight": normal(4, 6)}
    layer.load_state_dict(state)
    assert torch.equal(layer.quantized_weight(), rounded(layer))


def test_another_parameter_rounds_again(layer, normal):
    for _ in range(2):  # both are new, so their versions are equal
        layer.weight = nn.Parameter(normal(4, 6), requires_grad=False)
        assert torch.equal(layer.quantized_weight(), rounded(layer))


def test_other_points_round_again(layer):
    """A second recipe on the same model must not see the weight of the first."""
    layer.quantized_weight()
    layer.attach("name", Scheme(weight=W2))
    install(layer, W2)
    assert torch.equal(layer.quantized_weight(), rounded(layer))


def test_moved_weight_rounds_again(layer):
    layer.quantized_weight()
    layer.double()
    assert layer.quantized_weight().dtype == torch.float64


def test_gradient_reaches_a_trained_weight_straight_through(layer, normal, roundings):
    layer.requires_grad_(True)
    install(layer, W8, widen=0.5)
    x = normal(3, 6)
    layer(x).sum().backward()
    low, high = (
        layer.weight_quantizer.qparams.scale[:, None] * bound
        for bound in (W8.quant_min - 0.5, W8.quant_max + 0.5)
    )
    inside = (layer.weight.detach() >= low) & (layer.weight.detach() <= high)
    assert bool(inside.any())
    assert not bool(inside.all())
    torch.testing.assert_close(layer.weight.grad, x.sum(0) * inside)
    layer(x)
    assert len(roundings) == 2


def test_gradient_reaches_the_input_through_a_frozen_weight(layer, normal):
    layer.attach("name", Scheme(weight=W8, input=QuantSpec(8)))
    install(layer, W8)
    one = torch.tensor(100.0)
    layer.input_quantizer.set_qparams(qparams_from_range(Range(-one, one), QuantSpec(8)))
    layer.input_quantizer.set_mode(Mode.QUANTIZE)
    x = normal(3, 6).requires_grad_()
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, rounded(layer).sum(0).expand(3, 6))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_what_inference_mode_left_behind_serves_training_too(
    layer, normal, calibrate, requires_grad
):
    inputs = QuantSpec(8, granularity=Granularity.CHANNEL)
    layer.requires_grad_(requires_grad)
    layer.attach("name", Scheme(weight=W8, input=inputs))
    seen = normal(9, 6)
    calibrate(layer, seen)
    with torch.inference_mode():
        expected = layer(seen)
    x = seen.clone().requires_grad_()
    out = layer(x)
    out.sum().backward()
    assert torch.equal(out, expected)
    torch.testing.assert_close(x.grad, rounded(layer).sum(0).expand(9, 6))


def test_copied_layer_has_a_rounded_weight_of_its_own(layer, normal):
    layer.quantized_weight()
    twin = deepcopy(layer)
    twin.weight.mul_(0.5)
    assert torch.equal(twin.quantized_weight(), rounded(twin))
    assert torch.equal(layer.quantized_weight(), rounded(layer))
    install(twin, W8, widen=0.5)
    assert torch.equal(twin.quantized_weight(), rounded(twin))
    assert torch.equal(layer.quantized_weight(), rounded(layer))
