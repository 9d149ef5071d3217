# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The arithmetic against torch's own operators, bit for bit, and against integers by hand."""

from functools import partial
from math import inf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.ao.quantization.observer import MinMaxObserver, PerChannelMinMaxObserver

from qkit.numerics import (
    EPS,
    dequantize,
    fake_quantize,
    make_grid,
    qparams_from_range,
    quantize,
    sqnr_db,
    token_qparams,
)
from qkit.spec import QParams, QuantSpec, Range

SHAPE = (3, 4, 5)
moderate = settings(deadline=None, max_examples=60)
specs = st.builds(QuantSpec, st.integers(2, 8), st.booleans())
axes = st.sampled_from([0, 1, 2, -1, -2, -3])


@st.composite
def data(draw):
    """Normal values of any usual scale and offset, of both signs or of one."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.randn(SHAPE, generator=generator) * 10.0 ** draw(st.integers(-6, 6))
    x = x + draw(st.sampled_from([0.0, 1.0, -100.0]))
    return x.abs() if draw(st.booleans()) else x


def qparams(x, spec, shrink=1.0):
    return qparams_from_range(Range(x.min() * shrink, x.max() * shrink), spec)


def channel_qparams(x, spec, axis, shrink=1.0):
    rows = x.movedim(axis, 0).flatten(1)
    return qparams_from_range(Range(rows.amin(1) * shrink, rows.amax(1) * shrink), spec)


def torch_per_tensor(x, q, spec):
    bounds = (spec.quant_min, spec.quant_max)
    return torch.fake_quantize_per_tensor_affine(x, q.scale.item(), int(q.zero_point), *bounds)


def torch_per_channel(x, q, spec, axis):
    bounds = (spec.quant_min, spec.quant_max)
    return torch.fake_quantize_per_channel_affine(x, *q, axis % x.ndim, *bounds)


def gradient(function, x):
    x = x.clone().requires_grad_()
    weights = torch.linspace(-1, 1, x.numel()).reshape(x.shape)
    (function(x) * weights).sum().backward()
    return x.grad


def assert_same_function(ours, theirs, x):
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(gradient(ours, x), gradient(theirs, x))


@moderate
@given(x=data(), spec=specs, shrink=st.sampled_from([1.0, 0.3]))
def test_per_tensor_equals_torch_in_value_and_gradient(x, spec, shrink):
    q = qparams(x, spec, shrink)
    ours = partial(fake_quantize, grid=make_grid(q, spec))
    assert_same_function(ours, partial(torch_per_tensor, q=q, spec=spec), x)


@moderate
@given(x=data(), spec=specs, axis=axes, shrink=st.sampled_from([1.0, 0.3]))
def test_per_channel_equals_torch_in_value_and_gradient(x, spec, axis, shrink):
    q = channel_qparams(x, spec, axis, shrink)
    ours = partial(fake_quantize, grid=make_grid(q, spec, axis, x.ndim))
    assert_same_function(ours, partial(torch_per_channel, q=q, spec=spec, axis=axis), x)


@pytest.mark.parametrize("zero_point", [0, 3])
def test_ties_go_to_the_even_level_as_in_torch(zero_point):
    spec = QuantSpec(4)
    q = QParams(torch.tensor(2.0), torch.tensor(zero_point, dtype=torch.int32))
    x = torch.tensor([-1.0, 1.0, 3.0, 5.0, 7.0])  # halfway between multiples of 2
    ours = fake_quantize(x, make_grid(q, spec))
    assert ours.tolist() == [0.0, 0.0, 4.0, 4.0, 8.0]
    assert torch.equal(ours, torch_per_tensor(x, q, spec))


def test_gradient_stops_at_what_is_clipped():
    spec = QuantSpec(4, symmetric=True)
    q = qparams_from_range(Range(torch.tensor(-3.0), torch.tensor(7.5)), spec)
    assert (q.scale.item(), q.zero_point.item()) == (1.0, 0)  # absmax / 7.5
    x = torch.tensor([-99.0, -8.6, -8.4, 0.2, 7.4, 7.6, 99.0])
    grad = gradient(lambda x: fake_quantize(x, make_grid(q, spec)), x)
    kept = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    assert torch.equal(grad, torch.linspace(-1, 1, 7) * kept)


def torch_qparams(x, spec, axis=None):
    scheme = "per_tensor" if axis is None else "per_channel"
    options = {
        "dtype": torch.qint8 if spec.symmetric else torch.quint8,
        "qscheme": getattr(torch, f"{scheme}_{'symmetric' if spec.symmetric else 'affine'}"),
        "quant_min": spec.quant_min,
        "quant_max": spec.quant_max,
    }
    cls = MinMaxObserver if axis is None else partial(PerChannelMinMaxObserver, ch_axis=axis)
    (observer := cls(**options))(x)
    return observer.calculate_qparams()


@moderate
@given(x=data(), spec=specs, axis=st.none() | axes)
def test_qparams_equal_those_of_torch_ao(x, spec, axis):
    ours = qparams(x, spec) if axis is None else channel_qparams(x, spec, axis)
    scale, zero_point = torch_qparams(x, spec, axis)
    assert ours.scale.shape == ours.zero_point.shape == (() if axis is None else (x.shape[axis],))
    assert (ours.scale.dtype, ours.zero_point.dtype) == (torch.float32, torch.int32)
    assert torch.equal(ours.scale.flatten(), scale.flatten())
    assert torch.equal(ours.zero_point.flatten(), zero_point.flatten().to(torch.int32))


@moderate
@given(x=data(), spec=specs, axis=st.none() | axes)
def test_integers_lie_in_bounds_and_lead_back_to_the_fake_quantized(x, spec, axis):
    q = qparams(x, spec) if axis is None else channel_qparams(x, spec, axis)
    levels = quantize(x, q, spec, axis)
    assert levels.dtype == torch.int16
    assert spec.quant_min <= levels.min() <= levels.max() <= spec.quant_max
    expected = fake_quantize(x, make_grid(q, spec, axis, x.ndim))
    assert torch.equal(dequantize(levels, q, spec, axis), expected)


@moderate
@given(x=data(), spec=specs)
def test_integers_are_those_of_plain_arithmetic(x, spec):
    q = qparams(x, spec, 0.7)
    inverse = 1.0 / q.scale
    levels = [round(value) + int(q.zero_point) for value in (x * inverse).flatten().tolist()]
    expected = [min(max(level, spec.quant_min), spec.quant_max) for level in levels]
    assert quantize(x, q, spec).flatten().tolist() == expected


@moderate
@given(x=data(), spec=specs)
def test_rounding_is_idempotent_monotone_and_keeps_zero(x, spec):
    grid = make_grid(qparams(x, spec), spec)
    ascending = fake_quantize(x.flatten().sort().values, grid)
    assert bool((ascending.diff() >= 0).all())
    assert torch.equal(fake_quantize(ascending, grid), ascending)
    assert fake_quantize(torch.zeros(2), grid).tolist() == [0.0, 0.0]


@moderate
@given(x=data(), spec=specs)
def test_values_the_grid_reaches_are_off_by_half_a_step_at_most(x, spec):
    q = qparams(x, spec)
    reach = [(bound - int(q.zero_point)) * q.scale for bound in (spec.quant_min, spec.quant_max)]
    inside = x[(x >= reach[0]) & (x <= reach[1])]
    error = (fake_quantize(inside, make_grid(q, spec)) - inside).abs()
    assert bool((error <= q.scale / 2 + 1e-6 * inside.abs() + 1e-6 * q.scale).all())


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_empty_range_gives_the_smallest_scale(symmetric, shape):
    zero = torch.zeros(shape)
    scale, zero_point = qparams_from_range(Range(zero, zero.clone()), QuantSpec(8, symmetric))
    assert torch.equal(scale, torch.full(shape, EPS))
    assert not zero_point.any()


@moderate
@given(x=data(), spec=specs, dead=st.booleans())
def test_token_qparams_are_those_of_each_row_alone(x, spec, dead):
    x[1, 2] = 0.0 if dead else x[1, 2]
    q = token_qparams(x, spec)
    assert q.scale.shape == q.zero_point.shape == (*SHAPE[:-1], 1)
    assert (q.scale.dtype, q.zero_point.dtype) == (torch.float32, torch.int32)
    alone = [qparams(row, spec) for row in x.flatten(0, 1)]
    assert torch.equal(q.scale.flatten(), torch.stack([each.scale for each in alone]))
    assert torch.equal(q.zero_point.flatten(), torch.stack([each.zero_point for each in alone]))


@pytest.mark.parametrize(
    ("signal", "noise", "decibel"),
    [(1, 1, 0), (100, 1, 20), (1, 1000, -30), (0, 1, 0), (0, 0, inf), (1, 0, inf)],
)
def test_sqnr_of_known_energies(signal, noise, decibel):
    assert sqnr_db(float(signal), float(noise)) == pytest.approx(decibel, abs=1e-12)
