# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.ao.quantization.observer import MinMaxObserver, PerChannelMinMaxObserver

from qkit.errors import CalibrationError
from qkit.observers import (
    BINS,
    CHANNEL_BINS,
    make_observer,
    merge_stats,
    read_stats,
    weight_stats,
)
from qkit.spec import Granularity, QuantSpec

TENSOR, CHANNEL = QuantSpec(8), QuantSpec(8, granularity=Granularity.CHANNEL)
CHANNELS = 5
moderate = settings(deadline=None, max_examples=25)
scales = st.lists(st.integers(-3, 3).map(lambda k: 10.0**k), min_size=1, max_size=4)
seeds = st.integers(0, 2**31)


def batches_of(seed, scales, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 6, CHANNELS, generator=generator) * s + shift for s in scales]


def observed(batches, spec=TENSOR, axis=-1):
    observer = make_observer(spec, axis)
    for batch in batches:
        observer(batch)
    return read_stats(observer)


def assert_same_range(stats, expected):
    assert torch.equal(stats.min_val, expected.min_val)
    assert torch.equal(stats.max_val, expected.max_val)


@moderate
@given(seed=seeds, scales=scales, shift=st.sampled_from([0.0, 5.0, -5.0]))
def test_range_of_a_tensor_equals_that_of_torch_ao(seed, scales, shift):
    batches = batches_of(seed, scales, shift)
    expected = MinMaxObserver()
    for batch in batches:
        expected(batch)
    stats = observed(batches)
    assert_same_range(stats, expected)
    assert (stats.histogram.low, stats.histogram.high) == (stats.min_val, stats.max_val)
    assert stats.histogram.counts.shape == (BINS,)
    total = len(batches) * 4 * 6 * CHANNELS
    assert float(stats.histogram.counts.sum()) == pytest.approx(total, rel=1e-6)


@moderate
@given(seed=seeds, scales=scales, axis=st.sampled_from([1, -1]), dead=st.booleans())
def test_ranges_and_counts_of_channels(seed, scales, axis, dead):
    """A growing range only merges bins: every value ever seen is still counted."""
    alive = torch.tensor([1.0, 0.0 if dead else 1.0, 1.0, 1.0, 1.0])
    batches = [(b * alive) if axis == -1 else (b * alive).mT for b in batches_of(seed, scales)]
    expected = PerChannelMinMaxObserver(ch_axis=axis)
    for batch in batches:
        expected(batch)
    stats = observed(batches, CHANNEL, axis)
    assert_same_range(stats, expected)
    counts, low, high = stats.histogram
    assert counts.shape == (CHANNELS, CHANNEL_BINS)
    assert counts.sum(1).tolist() == [len(batches) * 4 * 6] * CHANNELS
    assert torch.equal(low, -high)
    assert torch.equal(high.log2(), high.log2().round())
    assert bool((low <= stats.min_val).all() & (high >= stats.max_val).all())


@moderate
@given(seed=seeds, growth=st.lists(st.integers(0, 6), min_size=1, max_size=4))
def test_grown_channel_histogram_equals_one_made_on_the_final_range(seed, growth):
    """No value is the very end of its range, which numpy would count in the bin below it."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for exponent in growth:
        bins = torch.randint(-CHANNEL_BINS, CHANNEL_BINS, (32, CHANNELS), generator=generator)
        batches.append((bins + 0.5) * 2.0**exponent / CHANNEL_BINS)
    counts, low, high = observed(batches, CHANNEL).histogram
    for channel, values in enumerate(torch.cat(batches).T):
        ends = (float(low[channel]), float(high[channel]))
        expected, _ = np.histogram(values.numpy(), bins=CHANNEL_BINS, range=ends)
        assert counts[channel].tolist() == expected.tolist()


def test_reading_copies():
    observer = make_observer(CHANNEL, -1)
    observer(torch.ones(2, CHANNELS))
    before = read_stats(observer)
    observer(torch.full((2, CHANNELS), 100.0))
    assert before.max_val.tolist() == before.histogram.high.tolist() == [1.0] * CHANNELS
    assert before.histogram.counts.sum() == 2 * CHANNELS


@pytest.mark.parametrize("spec", [TENSOR, CHANNEL])
def test_reading_before_data_is_refused(spec):
    with pytest.raises(CalibrationError, match=r"before it saw any data\. Run the calibration"):
        read_stats(make_observer(spec, -1))


@pytest.mark.parametrize("granularity", Granularity)
def test_only_channels_have_histograms_of_their_own(granularity):
    stats = observed([torch.ones(2, CHANNELS)], QuantSpec(8, granularity=granularity))
    assert stats.histogram.counts.ndim == (2 if granularity is Granularity.CHANNEL else 1)


@pytest.mark.parametrize("granularity", Granularity)
def test_weight_is_described_by_rows_or_as_one(granularity):
    weight = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    stats = weight_stats(weight.requires_grad_(), granularity)
    rows = weight.detach().reshape(6, -1)
    expected = rows.aminmax(dim=1)
    if granularity is Granularity.TENSOR:
        rows, expected = rows.reshape(1, -1), rows.aminmax()
    assert torch.equal(stats.values, rows)
    assert not stats.values.requires_grad
    assert torch.equal(stats.min_val, expected.min)
    assert torch.equal(stats.max_val, expected.max)


@moderate
@given(seed=seeds, left=scales, right=scales, spec=st.sampled_from([TENSOR, CHANNEL]))
def test_merged_halves_equal_one_pass(seed, left, right, spec):
    first, second = batches_of(seed, left), batches_of(seed + 1, right, shift=1.0)
    merged = merge_stats(observed(first, spec), observed(second, spec))
    whole = observed(first + second, spec)
    assert_same_range(merged, whole)
    counts, expected = merged.histogram.counts, whole.histogram.counts
    assert all(map(torch.equal, merged.histogram[1:], whole.histogram[1:]))
    torch.testing.assert_close(counts.sum(-1), expected.sum(-1), rtol=1e-6, atol=0)
    if spec is CHANNEL:  # powers of two: no bin straddles two
        assert torch.equal(counts, expected)


@moderate
@given(seed=seeds, scales=st.tuples(*[st.sampled_from([0.1, 1.0, 7.0])] * 3))
def test_merging_is_associative_in_range_and_total(seed, scales):
    a, b, c = (observed([batch]) for batch in batches_of(seed, scales))
    either = merge_stats(merge_stats(a, b), c), merge_stats(a, merge_stats(b, c))
    assert_same_range(*either)
    for stats in either:
        assert stats.histogram.counts.sum().item() == pytest.approx(3 * 4 * 6 * CHANNELS, rel=1e-6)


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.75, 0.99])
def test_quantiles_of_merged_halves_are_close_to_those_of_the_data(share):
    generator = torch.Generator().manual_seed(3)
    first = torch.randn(20_000, generator=generator)
    second = 3 * torch.randn(20_000, generator=generator) + 1
    counts, low, high = merge_stats(observed([first]), observed([second])).histogram
    cumulative = np.concatenate([[0.0], counts.double().cumsum(0).numpy()])
    found = np.interp(share * 40_000, cumulative, np.linspace(float(low), float(high), BINS + 1))
    expected = float(torch.cat([first, second]).quantile(share))
    assert found == pytest.approx(expected, abs=2 * float(high - low) / BINS)


@pytest.mark.parametrize("spec", [TENSOR, CHANNEL])
@pytest.mark.parametrize("constant", [0.0, 2.3, -6.9])
def test_constant_half_lands_in_the_bin_of_its_value(spec, constant):
    varied = torch.randn(50, CHANNELS, generator=torch.Generator().manual_seed(4)).clamp(-3, 3)
    halves = [observed([x], spec) for x in (varied, torch.full((30, CHANNELS), constant))]
    for merged in (merge_stats(*halves), merge_stats(*halves[::-1])):
        rows = merged.histogram.counts.reshape(-1, merged.histogram.counts.shape[-1])
        each = CHANNELS / len(rows)
        torch.testing.assert_close(rows.sum(1), torch.full((len(rows),), 80 * each))
        low, high = (end.reshape(-1, 1) for end in merged.histogram[1:])
        place = ((constant - low) / (high - low) * rows.shape[1]).long().clamp(0, rows.shape[1] - 1)
        assert bool((rows.gather(1, place) >= 30 * each - 1e-3).all())


@pytest.mark.parametrize("spec", [TENSOR, CHANNEL])
def test_two_halves_of_one_constant_merge(spec):
    half = observed([torch.full((4, CHANNELS), 2.5)], spec)
    merged = merge_stats(half, half)
    assert_same_range(merged, half)
    assert torch.equal(merged.histogram.counts, 2 * half.histogram.counts)


def test_merging_what_does_not_match_is_refused():
    wide, narrow = (observed([torch.randn(4, n)], CHANNEL) for n in (5, 3))
    expected = rf"of shapes \(5, {CHANNEL_BINS}\) and \(3, {CHANNEL_BINS}\) cannot be merged\. Use"
    with pytest.raises(CalibrationError, match=expected):
        merge_stats(wide, narrow)


def test_merging_weights_is_refused():
    activation = observed([torch.ones(2)])
    weight = weight_stats(torch.ones(2, 2), Granularity.CHANNEL)
    for pair in ((weight, activation), (activation, weight)):
        with pytest.raises(CalibrationError, match=r"without a histogram cannot be merged\. Merge"):
            merge_stats(*pair)
