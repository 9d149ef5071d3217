# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Percentiles read off histograms, against the exact quantiles of the data."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrators.minmax import MinMax
from calibrators.percentile import Percentile
from qkit.errors import QkitWarning
from qkit.observers import BINS, CHANNEL_BINS, make_observer, read_stats, weight_stats
from qkit.spec import Granularity, QuantSpec

PER_TENSOR = QuantSpec(8)
PER_CHANNEL = QuantSpec(8, granularity=Granularity.CHANNEL)
quietly = pytest.mark.filterwarnings("ignore::qkit.errors.QkitWarning")


def sample(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def observed(data, spec=PER_TENSOR):
    observer = make_observer(spec, axis=-1)
    for batch in data.split(-(-len(data) // 3)):
        observer(batch)
    return read_stats(observer)


def chosen(percentile, stats, spec=PER_TENSOR):
    return Percentile(percentile).choose_range(stats, spec)


@quietly
@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99])
def test_ends_are_near_the_exact_quantiles(percentile):
    data = sample(200_000)
    low, high = chosen(percentile, observed(data))
    share = torch.tensor([1 - percentile / 100, percentile / 100], dtype=torch.float64)
    tolerance = 0.02 if percentile <= 99.9 else 0.05
    for end, place in zip((low, high), share, strict=True):
        exact = data.double().sort().values[int(place * (len(data) - 1))]
        assert abs(end - exact) < tolerance


@pytest.mark.parametrize("spec", [PER_TENSOR, PER_CHANNEL], ids=str)
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), shift=st.floats(-5, 5))
def test_a_hundred_percent_is_min_max_to_one_bin(spec, seed, shift):
    stats = observed(sample(60, 5, seed=seed) + shift, spec)
    full = MinMax().choose_range(stats, spec)
    bins = CHANNEL_BINS if spec is PER_CHANNEL else BINS
    width = (stats.histogram.high - stats.histogram.low) / bins
    for end, expected in zip(chosen(100.0, stats, spec), full, strict=True):
        assert end.shape == expected.shape
        assert bool(((end - expected).abs() <= width).all())


@quietly
@pytest.mark.parametrize("spec", [PER_TENSOR, PER_CHANNEL], ids=str)
@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 99),
    percentiles=st.tuples(st.floats(50.01, 100), st.floats(50.01, 100)),
)
def test_a_higher_percentile_never_clips_more(spec, seed, percentiles):
    stats = observed(sample(60, 5, seed=seed), spec)
    narrow, wide = (chosen(p, stats, spec) for p in sorted(percentiles))
    assert bool((wide.min <= narrow.min).all())
    assert bool((narrow.max <= wide.max).all())
    assert bool((stats.min_val <= wide.min).all())
    assert bool((wide.max <= stats.max_val).all())


@quietly
def test_every_channel_has_its_own_percentiles():
    data = sample(40_000, 3) * torch.tensor([1.0, 10.0, 0.1]) + torch.tensor([0.0, 5.0, -1.0])
    low, high = chosen(99.0, observed(data, PER_CHANNEL), PER_CHANNEL)
    ordered = data.sort(dim=0).values
    scale = torch.tensor([1.0, 10.0, 0.1])
    assert bool(((low - ordered[400]).abs() < 0.05 * scale).all())
    assert bool(((high - ordered[-401]).abs() < 0.05 * scale).all())


def test_an_outlier_is_cut_off():
    data = sample(200_000)
    data[0] = 500.0
    low, high = chosen(99.999, observed(data))
    assert high < 10
    assert -10 < low < -3


@pytest.mark.parametrize("granularity", [Granularity.TENSOR, Granularity.CHANNEL])
def test_weights_keep_their_full_range(granularity):
    weight = sample(4, 1000)
    stats = weight_stats(weight, granularity)
    spec = QuantSpec(4, symmetric=True, granularity=granularity)
    low, high = chosen(99.99, stats, spec)
    assert torch.equal(low, stats.min_val)
    assert torch.equal(high, stats.max_val)


@pytest.mark.parametrize("percentile", [99.9, 50.5, 99.98])
def test_low_percentiles_warn(percentile):
    fact = rf"percentile {percentile:g} cuts off .* below 99.99 they usually fail. The default is"
    with pytest.warns(QkitWarning, match=fact):
        Percentile(percentile)


@pytest.mark.parametrize("percentile", [99.99, 99.999, 100.0])
def test_high_percentiles_do_not_warn(percentile):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Percentile(percentile).percentile == percentile
        assert Percentile().percentile == 99.999


@pytest.mark.parametrize("percentile", [50, 0.999, 100.001, -1, float("nan"), float("inf")])
def test_impossible_percentile(percentile):
    with pytest.raises(ValueError, match=rf"percentile = {percentile!r}. Use a number above 50"):
        Percentile(percentile)
