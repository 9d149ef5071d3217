# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Rounding to a grid that is being learned: values and gradients, by hand and against torch."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qkit.numerics import fake_quantize, learned_fake_quantize, make_grid, qparams_from_range
from qkit.spec import QParams, QuantSpec, Range

moderate = settings(deadline=None, max_examples=40)
specs = st.builds(QuantSpec, st.integers(2, 8), st.booleans())
shrinks = st.sampled_from([1.0, 0.3])


@st.composite
def data(draw):
    """Normal values ``(7, 5)`` of any usual scale and offset."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.randn(7, 5, generator=generator) * 10.0 ** draw(st.integers(-4, 4))
    return x + draw(st.sampled_from([0.0, 1.0, -30.0]))


def qparams(x, spec, shrink):
    return qparams_from_range(Range(x.min() * shrink, x.max() * shrink), spec)


def rows(x, spec, shrink):
    """One scale a row, and a grid of it that broadcasts."""
    q = qparams_from_range(Range(x.amin(1) * shrink, x.amax(1) * shrink), spec)
    return q, QParams(*(t[:, None] for t in q))


def tied(x, scale):
    """Where dividing by the scale and multiplying by its inverse may round to unlike levels."""
    levels = x.double() / scale.double()
    return (levels - levels.floor() - 0.5).abs() < 1e-6 * (1 + levels.abs())


def gradients(function, x, scale):
    """Value and gradients with respect to data and scale, under weights that differ."""
    x, scale = x.clone().requires_grad_(), scale.clone().requires_grad_()
    y = function(x, scale)
    (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
    return y.detach(), x.grad, scale.grad


def ours(x, scale, zero_point, spec):
    return learned_fake_quantize(x, QParams(scale, zero_point), spec)


@moderate
@given(x=data(), spec=specs, shrink=shrinks, channels=st.booleans())
def test_values_are_those_of_a_fixed_grid_but_for_ties(x, spec, shrink, channels):
    q = qparams(x, spec, shrink)
    fixed, broadcast = (make_grid(q, spec), q) if not channels else (None, None)
    if channels:
        own, broadcast = rows(x, spec, shrink)
        fixed = make_grid(own, spec, 0, 2)
    expected, found = fake_quantize(x, fixed), learned_fake_quantize(x, broadcast, spec)
    same = ~tied(x, broadcast.scale)
    torch.testing.assert_close(found[same], expected[same], rtol=2e-7, atol=0)
    one_step = broadcast.scale + 1e-6 * expected.abs()
    assert bool(((found - expected).abs() <= one_step).all())


@moderate
@given(x=data(), spec=specs, shrink=shrinks)
def test_per_tensor_gradients_are_those_of_torch(x, spec, shrink):
    q = qparams(x, spec, shrink)
    x = x[~tied(x, q.scale)]
    found = gradients(partial(ours, zero_point=q.zero_point, spec=spec), x, q.scale)

    def torchs(x, scale):
        bounds = (spec.quant_min, spec.quant_max, 1.0)
        zero_point = q.zero_point.float().reshape(1)
        return torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero_point, *bounds)

    y, by_x, by_scale = gradients(torchs, x, q.scale.reshape(1))
    torch.testing.assert_close(found[0], y, rtol=1e-6, atol=0)
    torch.testing.assert_close(found[1], by_x, rtol=1e-6, atol=0)
    size = 1e-5 * (1 << spec.bits) * len(x)
    torch.testing.assert_close(found[2].reshape(1), by_scale, rtol=1e-4, atol=size)


@moderate
@given(x=data(), spec=specs, shrink=shrinks)
def test_each_channel_learns_from_its_own_values(x, spec, shrink):
    q, broadcast = rows(x, spec, shrink)
    function = partial(ours, zero_point=broadcast.zero_point, spec=spec)
    found = gradients(function, x, broadcast.scale)[2].flatten()
    weights = torch.linspace(-1, 1, x.numel()).reshape(x.shape)
    for i, row in enumerate(x):
        scale = q.scale[i].clone().requires_grad_()
        (ours(row, scale, q.zero_point[i], spec) * weights[i]).sum().backward()
        torch.testing.assert_close(found[i], scale.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "zero_point", "x", "value", "by_x", "by_scale"),
    [
        # levels -8 to 7, scale 2: round(x / s) - x / s inside, the end of the grid outside
        (QuantSpec(4, symmetric=True), 0, 0.0, 0.0, 1.0, 0.0),
        (QuantSpec(4, symmetric=True), 0, 2.5, 2.0, 1.0, -0.25),
        (QuantSpec(4, symmetric=True), 0, -3.5, -4.0, 1.0, -0.25),
        (QuantSpec(4, symmetric=True), 0, 13.5, 14.0, 1.0, 0.25),
        (QuantSpec(4, symmetric=True), 0, 99.0, 14.0, 0.0, 7.0),
        (QuantSpec(4, symmetric=True), 0, -99.0, -16.0, 0.0, -8.0),
        # levels 0 to 3 with zero at 1: from -1 to 2
        (QuantSpec(2), 1, 1.5, 2.0, 1.0, 0.25),
        (QuantSpec(2), 1, 50.0, 4.0, 0.0, 2.0),
        (QuantSpec(2), 1, -50.0, -2.0, 0.0, -1.0),
    ],
)
def test_gradients_by_hand(spec, zero_point, x, value, by_x, by_scale):
    """LSQ, arXiv 1902.08153, Eq 3 and 5."""
    x = torch.tensor(x, requires_grad=True)
    scale = torch.tensor(2.0, requires_grad=True)
    y = ours(x, scale, torch.tensor(zero_point, dtype=torch.int32), spec)
    y.backward()
    assert [y.item(), x.grad.item(), scale.grad.item()] == [value, by_x, by_scale]


def test_a_scale_follows_its_gradient_to_the_least_error(normal):
    """Of 2-bit normal values: a scale far too wide comes down to the best of a fine grid."""
    spec, x = QuantSpec(2, symmetric=True), normal(4000)
    zero = torch.tensor(0, dtype=torch.int32)

    def error(scale):
        return (ours(x, scale, zero, spec) - x).square().mean()

    step = torch.zeros((), requires_grad=True)
    adam = torch.optim.Adam([step], lr=0.02)
    for _ in range(120):
        adam.zero_grad()
        error(2.5 * step.exp()).backward()
        adam.step()
    best = min(float(error(torch.tensor(k / 100))) for k in range(20, 260))
    assert float(error(torch.tensor(2.5))) > 1.5 * best
    assert float(error(2.5 * step.detach().exp())) < 1.03 * best
