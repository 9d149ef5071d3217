# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The best ranges of one layer alone, judged by the error of its output."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrators.entropy.layerwise import WEIGHT, choose_input, choose_weight
from qkit.numerics import fake_quantize, make_grid, qparams_from_range
from qkit.observers import weight_stats
from qkit.spec import Granularity, QuantSpec, Range

bits = st.integers(2, 8)
seeds = st.integers(0, 99)


def draw(seed, rows=40, width=6, out=5):
    """Inputs with a heavy tail and a shift, and a weight."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=generator)
    x = x * torch.rand(rows, width, generator=generator).clamp(min=0.05) ** -0.7 + seed % 3
    return x, torch.randn(out, width, generator=generator)


def ends(x):
    """Smallest and largest value."""
    return Range(x.min(), x.max())


def input_error(x, weight, q, spec):
    """Squared error of the product with a rounded input."""
    off = fake_quantize(x, make_grid(q, spec)) - x
    return float((off @ weight.T).square().sum())


def weight_errors(x, weight, q, spec):
    """Squared error of each output with a rounded weight."""
    off = fake_quantize(weight, make_grid(q, spec, 0, 2)) - weight
    return (x @ off.T).square().sum(0)


def weight_ends(weight, spec):
    seen = weight_stats(weight, spec.granularity)
    return Range(seen.min_val, seen.max_val)


@settings(deadline=None, max_examples=40)
@given(seeds, bits, st.booleans())
def test_an_input_is_never_worse_than_its_full_range(seed, bits, symmetric):
    x, weight = draw(seed)
    spec = QuantSpec(bits, symmetric)
    found = choose_input(x, weight, ends(x), spec)
    full = qparams_from_range(ends(x), spec)
    assert found.scale.shape == found.zero_point.shape == ()
    assert input_error(x, weight, found, spec) <= input_error(x, weight, full, spec)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("seed", range(3))
def test_an_input_is_close_to_the_best_of_a_dense_search(seed, bits, symmetric):
    x, weight = draw(seed, rows=200)
    spec = QuantSpec(bits, symmetric)
    low, high = ends(x)
    steps = [0.01 * k for k in range(1, 101)]
    dense = min(
        input_error(x, weight, qparams_from_range(Range(low * f, high * f), spec), spec)
        for f in steps
    )
    found = input_error(x, weight, choose_input(x, weight, ends(x), spec), spec)
    assert found <= 1.1 * dense


def test_the_ends_of_an_affine_input_move_apart():
    x, weight = draw(0, rows=4000)
    x = x.clamp(-3, 3)
    x[0, 0] = 80.0
    spec = QuantSpec(4)
    q = choose_input(x, weight, ends(x), spec)
    low, high = (float(q.scale * (level - q.zero_point)) for level in (0, 15))
    assert high < 40
    assert -6 < low < -1.5


def test_what_meets_no_weight_is_clipped_and_what_meets_a_large_one_is_not():
    x, weight = draw(0)
    x[:, 0] = x[:, 0] * 10 + 100
    spec = QuantSpec(4)
    reach = {}
    for gain in (0.0, 1.0):
        weight[:, 0] = gain
        q = choose_input(x, weight, ends(x), spec)
        reach[gain] = float(q.scale * (15 - q.zero_point))
    assert reach[0.0] < 50 < 100 < reach[1.0]


@settings(deadline=None, max_examples=20)
@given(seeds, bits, st.booleans(), st.integers(-6, 6))
def test_scales_follow_the_units(seed, bits, symmetric, power):
    x, weight = draw(seed)
    spec, unit = QuantSpec(bits, symmetric), 2.0**power
    one = choose_input(x, weight, ends(x), spec)
    other = choose_input(x * unit, weight, ends(x * unit), spec)
    assert torch.equal(other.scale, one.scale * unit)
    assert torch.equal(other.zero_point, one.zero_point)
    full = weight_ends(weight, spec)
    one = choose_weight(x, weight, full, spec)
    other = choose_weight(x * unit, weight, full, spec)
    assert all(map(torch.equal, one, other))


@settings(deadline=None, max_examples=40)
@given(seeds, bits, st.booleans(), st.sampled_from([Granularity.TENSOR, Granularity.CHANNEL]))
def test_a_weight_takes_the_best_factor_of_every_scale(seed, bits, symmetric, granularity):
    x, weight = draw(seed)
    spec = QuantSpec(bits, symmetric, granularity)
    low, high = weight_ends(weight, spec)
    tried = torch.stack(
        [
            weight_errors(x, weight, qparams_from_range(Range(low * f, high * f), spec), spec)
            for f in WEIGHT
        ]
    )
    found = choose_weight(x, weight, Range(low, high), spec)
    assert found.scale.shape == found.zero_point.shape == low.shape
    errors = weight_errors(x, weight, found, spec)
    if granularity is Granularity.CHANNEL:
        assert torch.equal(errors, tried.amin(0))
    else:
        torch.testing.assert_close(errors.sum(), tried.sum(1).min())


def test_an_even_input_leaves_a_weight_its_range_where_clipping_hurts():
    weight = torch.tensor([[-1.0, 1.0, -1.0, 1.0], [0.3, 0.3, 0.3, 7.0]])
    x = torch.eye(4)
    x[3] *= 0.01  # the large weight hardly counts
    spec = QuantSpec(4, symmetric=True, granularity=Granularity.CHANNEL)
    full = qparams_from_range(weight_ends(weight, spec), spec)
    share = choose_weight(x, weight, weight_ends(weight, spec), spec).scale / full.scale
    assert share[0] > 0.9
    assert share[1] < 0.5


def test_a_dead_channel_keeps_a_usable_scale():
    x, weight = draw(0)
    weight[2] = 0.0
    spec = QuantSpec(4, symmetric=True, granularity=Granularity.CHANNEL)
    found = choose_weight(x, weight, weight_ends(weight, spec), spec)
    assert bool((found.scale > 0).all())
    assert float(weight_errors(x, weight, found, spec)[2]) == 0.0
