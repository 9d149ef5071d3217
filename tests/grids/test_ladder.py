# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Rungs of weights: what searches see is what is stored and what is computed with."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrators.mse import Mse
from calibrators.rounding.adaround import AdaRound
from calibrators.rounding.gptq import Gptq
from calibrators.rounding.solver import choose_scale, damped
from qkit.grids.codebook import grid_of
from qkit.grids.ladder import ladder
from qkit.grids.normal import normal_levels
from qkit.grids.weights import weight_integers, weight_values
from qkit.numerics import qparams_from_range
from qkit.spec import Granularity, GridKind, QuantSpec, Range, TensorStats

CHANNEL, TENSOR = Granularity.CHANNEL, Granularity.TENSOR
SPECS = [
    *(QuantSpec(4, sym, gran) for sym in (True, False) for gran in (CHANNEL, TENSOR)),
    *(
        QuantSpec(bits, True, gran, GridKind.NORMAL)
        for bits in (2, 4)
        for gran in (CHANNEL, TENSOR)
    ),
]


def drawn(seed, out=6, size=24):
    return torch.randn(out, size, generator=torch.Generator().manual_seed(seed))


def full(weight, spec):
    low, high = weight.aminmax() if spec.granularity is TENSOR else weight.aminmax(dim=1)
    return qparams_from_range(Range(low, high), spec)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999))
def test_rungs_are_what_integers_stand_for(spec, seed):
    weight = drawn(seed)
    q = full(weight, spec)
    integers = weight_integers(weight, q, spec, 0)
    rungs, scale = ladder(q, spec), q.scale.reshape(-1, 1)
    assert torch.equal(rungs.integers(rungs.rungs(integers)), integers)
    torch.testing.assert_close(rungs.rungs(integers) * scale, weight_values(integers, q, spec, 0))
    x = weight / scale  # at the ends two may be equally near
    torch.testing.assert_close((rungs.nearest(x) - x).abs(), (rungs.rungs(integers) - x).abs())
    assert spec.quant_min <= int(integers.min()) <= int(integers.max()) <= spec.quant_max


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_rounding_at_once_is_by_way_of_integers(spec):
    weight = drawn(1)
    q = full(weight, spec)
    integers = weight_integers(weight, q, spec, 0)
    found = grid_of(q, spec, 0, 2).round(weight)
    assert torch.equal(found, weight_values(integers, q, spec, 0))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_value_lies_between_the_rungs_around_it(spec):
    weight = drawn(2)
    q = full(weight, spec)
    rungs, x = ladder(q, spec), weight / q.scale.reshape(-1, 1)
    below, above = rungs.around(x)
    inside = below < above
    assert bool(((below <= x) & (x < above))[inside].all())
    nearest = rungs.nearest(x)
    assert bool(((nearest == below) | (nearest == above)).all())
    high = rungs.nearest(torch.full_like(x, 1e3))
    assert all(torch.equal(rung, high) for rung in rungs.around(torch.full_like(x, 1e3)))


@pytest.mark.parametrize("method", [Gptq(), AdaRound(iterations=100)])
def test_on_a_normal_grid_a_normal_weight_ends_nearer(method):
    weight = drawn(3, out=32, size=64)
    x = drawn(4, out=256, size=64) @ (torch.eye(64) + 0.2 * drawn(5, out=64, size=64))
    moment, errors = damped(x.T @ x / len(x), 0.01), []
    for grid in (GridKind.UNIFORM, GridKind.NORMAL):
        spec = QuantSpec(4, True, CHANNEL, grid)
        levels, q = method.fit(weight, moment, choose_scale(weight, moment, spec), spec)
        off = weight_values(levels, q, spec, 0) - weight
        errors.append(float(((off @ moment) * off).sum()))
    assert errors[1] < 0.95 * errors[0]


def test_ranges_of_least_error_are_searched_on_the_grid_itself():
    weight = drawn(6, out=8, size=512)
    spec = QuantSpec(4, True, CHANNEL, GridKind.NORMAL)
    stats = TensorStats(weight.amin(1), weight.amax(1), values=weight)
    found = qparams_from_range(Mse().choose_range(stats, spec), spec)
    errors = [
        (grid_of(q, spec, 0, 2).round(weight) - weight).square().sum(1)
        for q in (found, *(full(weight * share, spec) for share in (1.0, 0.9, 0.8, 0.7)))
    ]
    assert all(bool((errors[0] <= 1.01 * other).all()) for other in errors[1:])


def test_in_integers_the_product_is_that_of_int8_operands():
    weight = drawn(7)
    spec = QuantSpec(4, True, CHANNEL, GridKind.NORMAL)
    q = full(weight, spec)
    codes = weight_integers(weight, q, spec, 0).long() - spec.quant_min
    whole = torch.tensor(normal_levels(4))[codes]
    x = torch.randint(0, 256, (5, 24))
    product = (x @ whole.T).float() * (q.scale * 7.5 / 127)
    rounded = weight_values(codes + spec.quant_min, q, spec, 0)
    torch.testing.assert_close(x.float() @ rounded.T, product, rtol=1e-5, atol=1e-3)
