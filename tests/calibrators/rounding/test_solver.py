# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Columns rounded one by one against an oracle, brute force, and what no step may break."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrators.rounding.solver import CLIPS, choose_scale, damped, refine, solve
from qkit.numerics import dequantize, qparams_from_range, quantize
from qkit.spec import Granularity, QParams, QuantSpec, Range

CHANNEL, TENSOR = Granularity.CHANNEL, Granularity.TENSOR
SPECS = [
    QuantSpec(bits, symmetric, granularity)
    for bits in (2, 4, 8)
    for symmetric in (True, False)
    for granularity in (CHANNEL, TENSOR)
]


def problem(seed, out=5, size=12, mixed=0.9):
    """A weight, and the moment of inputs whose channels are ``mixed`` with each other."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, size, generator=generator)
    mixing = torch.eye(size) * (1 - mixed) + mixed * torch.randn(size, size, generator=generator)
    x = torch.randn(4 * size, size, generator=generator) @ mixing
    return weight, damped(x.T @ x / len(x), 0.01)


def whole_range(weight, spec):
    low, high = torch.aminmax(weight, dim=1) if spec.granularity is CHANNEL else weight.aminmax()
    return qparams_from_range(Range(low, high), spec)


def nearest(weight, q, spec):
    return quantize(weight, q, spec, 0)


def error(weight, levels, moment, q, spec):
    """tr(D C D^T) for the difference D of the rounded weight to the weight."""
    off = (dequantize(levels, q, spec, 0) - weight).double()
    return float((off @ moment.double() @ off.T).trace())


def one_by_one(weight, moment, scale, spec):
    """Columns fixed in turn; after each, those to come take their least squares values anew."""
    order = torch.argsort(moment.diagonal(), descending=True)
    w, c = weight.double()[:, order], moment.double()[order][:, order]
    off, wanted = torch.zeros_like(w), w.clone()
    for k in range(w.shape[1]):
        level = (wanted[:, k] / scale).round().clamp(spec.quant_min, spec.quant_max)
        off[:, k] = level * scale - w[:, k]
        done, rest = slice(0, k + 1), slice(k + 1, None)
        wanted[:, rest] = w[:, rest] - off[:, done] @ c[done, rest] @ c[rest, rest].inverse()
    levels = ((w + off) / scale[:, None]).round()
    return levels[:, torch.argsort(order)].to(torch.int16)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_where_columns_are_independent_the_nearest_integers_are_best(spec, normal):
    weight = normal(6, 70)
    whole = whole_range(weight, spec)
    q = QParams(whole.scale * 0.97, whole.zero_point)  # no value half-way between two integers
    levels = solve(weight, torch.diag(normal(70).abs() + 0.1), q, spec)
    assert levels.dtype == torch.int16
    assert torch.equal(levels, nearest(weight, q, spec))


@pytest.mark.parametrize("size", [5, 64, 65, 130])
def test_each_column_makes_up_for_those_before_it_across_blocks_too(size):
    spec = QuantSpec(4, symmetric=True, granularity=CHANNEL)
    weight, moment = problem(size, out=3, size=size)
    q = whole_range(weight, spec)
    expected = one_by_one(weight, moment, q.scale.double(), spec)
    assert torch.equal(solve(weight.double(), moment.double(), q, spec), expected)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("spec", [SPECS[4], SPECS[7]], ids=str)
def test_correlated_columns_leave_less_error_than_the_nearest_integers(seed, spec):
    weight, moment = problem(seed, size=24)
    q = whole_range(weight, spec)
    found, plain = solve(weight, moment, q, spec), nearest(weight, q, spec)
    assert error(weight, found, moment, q, spec) < error(weight, plain, moment, q, spec)


@pytest.mark.parametrize("size", [3, 4])
def test_at_two_bits_it_is_near_the_best_of_all_integers(size):
    spec = QuantSpec(2, symmetric=True, granularity=CHANNEL)
    every = torch.tensor(list(product(range(-2, 2), repeat=size)), dtype=torch.int16)
    best = found = plain = 0.0
    for seed in range(20):
        weight, moment = problem(seed, out=1, size=size)
        q = whole_range(weight, spec)
        of = [error(weight, levels[None], moment, q, spec) for levels in every]
        levels = solve(weight, moment, q, spec)
        for _ in range(4):
            levels, _ = refine(weight, levels, moment, q, spec)
        own = error(weight, levels, moment, q, spec)
        assert own >= min(of) * (1 - 1e-5)
        best, found = best + min(of), found + own
        plain += error(weight, nearest(weight, q, spec), moment, q, spec)
    assert found - best < 0.25 * (plain - best)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from(SPECS), st.floats(0.05, 3.0))
def test_integers_stay_on_the_grid_however_much_is_clipped(seed, spec, share):
    weight, moment = problem(seed)
    whole = whole_range(weight, spec)
    q = QParams(whole.scale * share, whole.zero_point)
    for levels in (solve(weight, moment, q, spec), nearest(weight, q, spec)):
        refined, _ = refine(weight, levels, moment, q, spec)
        for found in (levels, refined):
            assert spec.quant_min <= int(found.min()) <= int(found.max()) <= spec.quant_max


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_scale_is_the_best_of_its_clips(spec):
    weight, moment = problem(3)
    found = choose_scale(weight, moment, spec)
    rows = list(weight[:, None]) if spec.granularity is CHANNEL else [weight]
    for i, row in enumerate(rows):
        low, high = row.aminmax()
        tried = [qparams_from_range(Range(low * clip, high * clip), spec) for clip in CLIPS]
        of = [error(row, nearest(row, q, spec), moment, q, spec) for q in tried]
        own = tried[of.index(min(of))]
        assert torch.equal(found.scale.flatten()[i], own.scale)
        assert torch.equal(found.zero_point.flatten()[i], own.zero_point)
    assert found.scale.shape == found.zero_point.shape == whole_range(weight, spec).scale.shape


def test_channels_choose_their_clips_each_by_itself():
    spec = QuantSpec(3, symmetric=True, granularity=CHANNEL)
    weight = torch.full((2, 16), 0.1)
    weight[0, 0], weight[1, ::2] = 0.2, -0.1
    q = choose_scale(weight, torch.eye(16), spec)
    lone = choose_scale(weight[:1], torch.eye(16), spec)
    assert torch.equal(q.scale[:1], lone.scale)
    assert q.scale[0] / 0.2 != q.scale[1] / 0.1  # not one clip for both


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from(SPECS), st.floats(0.2, 1.5), st.floats(0, 1))
def test_a_sweep_never_raises_the_error_and_keeps_range_and_shape(seed, spec, share, mixed):
    weight, moment = problem(seed, mixed=mixed)
    whole = whole_range(weight, spec)
    q = QParams(whole.scale * share, whole.zero_point)
    levels = nearest(weight, q, spec)
    before = error(weight, levels, moment, q, spec)
    refined, fitted = refine(weight, levels, moment, q, spec)
    same_scale = error(weight, refined, moment, q, spec)
    assert same_scale <= before * (1 + 1e-4)
    assert error(weight, refined, moment, fitted, spec) <= same_scale * (1 + 1e-4)
    assert refined.dtype == torch.int16
    assert refined.shape == weight.shape
    assert fitted.scale.shape == q.scale.shape
    assert bool((fitted.scale > 0).all())
    assert torch.equal(fitted.zero_point, q.zero_point)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_weight_on_the_grid_stays(spec):
    noise, moment = problem(8)
    q = whole_range(noise, spec)
    levels = nearest(noise, q, spec)
    weight = dequantize(levels, q, spec, 0)
    assert torch.equal(solve(weight, moment, q, spec), levels)
    refined, fitted = refine(weight, levels, moment, q, spec)
    assert torch.equal(refined, levels)
    torch.testing.assert_close(fitted.scale, q.scale)


def test_damping_changes_the_diagonal_only():
    moment = torch.tensor([[1.0, 0.5], [0.5, 3.0]])
    expected = torch.tensor([[1.2, 0.5], [0.5, 3.2]])
    torch.testing.assert_close(damped(moment, 0.1), expected)
    assert torch.equal(moment, torch.tensor([[1.0, 0.5], [0.5, 3.0]]))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_inputs_that_are_all_zero_leave_integers_as_good_as_the_nearest(spec, normal):
    weight = normal(3, 8)
    weight[1] = 0
    moment = damped(torch.zeros(8, 8), 0.01)
    q = choose_scale(weight, moment, spec)
    levels = solve(weight, moment, q, spec)
    plain = nearest(weight, q, spec)
    assert error(weight, levels, moment, q, spec) == pytest.approx(
        error(weight, plain, moment, q, spec), rel=1e-5
    )
    refined, fitted = refine(weight, levels, moment, q, spec)
    assert torch.equal(refined[1], plain[1])  # a row of zeros
    assert bool(torch.isfinite(fitted.scale).all())
