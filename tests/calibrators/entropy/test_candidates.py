# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The scales that are tried: the layer's own first, percentiles and multiples of it."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrators.entropy.candidates import candidates
from calibrators.minmax import MinMax
from calibrators.percentile import Percentile
from qkit.numerics import qparams_from_range
from qkit.observers import make_observer, read_stats, weight_stats
from qkit.spec import Granularity, QParams, QuantSpec, TensorStats

SHARES = (1.0, 0.995, 0.99, 0.985, 0.98)
specs = st.builds(
    QuantSpec,
    st.integers(2, 8),
    st.booleans(),
    st.sampled_from([Granularity.TENSOR, Granularity.CHANNEL]),
)


def seen(x, spec):
    """Statistics of an activation whose channels are its last axis."""
    observer = make_observer(spec, axis=-1)
    observer(x)
    return read_stats(observer)


def draw(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) ** 3


def of(stats, spec, shares=SHARES, factors=(0.9, 1.1)):
    """Candidates of a tensor whose own best scale is that of its full range."""
    own = qparams_from_range(MinMax().choose_range(stats, spec), spec)
    own = QParams(own.scale * 0.7, own.zero_point)
    return own, candidates(own, stats, spec, shares, factors)


def reach(q, spec):
    """Largest distance from zero that a symmetric grid spans, by torch's formula."""
    return q.scale * (spec.quant_max - spec.quant_min) / 2


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 99), specs, st.booleans())
def test_own_first_all_usable_and_no_two_alike(seed, spec, weight):
    x = draw(seed, 30, 4)
    stats = weight_stats(x, spec.granularity) if weight else seen(x, spec)
    own, found = of(stats, spec)
    assert found[0] is own
    for i, q in enumerate(found):
        assert q.scale.shape == q.zero_point.shape == stats.min_val.shape
        assert bool((torch.isfinite(q.scale) & (q.scale > 0)).all())
        assert bool(((q.zero_point >= spec.quant_min) & (q.zero_point <= spec.quant_max)).all())
        assert not any(all(map(torch.equal, q, other)) for other in found[:i])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 99), specs, st.booleans())
def test_smaller_shares_give_smaller_scales_within_the_full_range(seed, spec, weight):
    x = draw(seed, 300, 4)
    stats = weight_stats(x, spec.granularity) if weight else seen(x, spec)
    full = qparams_from_range(MinMax().choose_range(stats, spec), spec)
    scales = [full.scale] + [of(stats, spec, (share,), ())[1][-1].scale for share in SHARES]
    assert torch.equal(scales[0], scales[1])
    assert all(bool((b <= a).all()) for a, b in itertools.pairwise(scales))


def test_the_shares_of_a_weight_are_counted_by_channel():
    spec = QuantSpec(8, symmetric=True, granularity=Granularity.CHANNEL)
    weight = torch.stack([torch.arange(1.0, 101.0), -2 * torch.arange(1.0, 101.0)])
    weight = weight * torch.tensor([1.0, -1.0]).repeat(50)  # both signs in both rows
    stats = weight_stats(weight, spec.granularity)
    for share, kept in ((1.0, 100), (0.99, 99), (0.98, 98), (0.5, 50)):
        found = of(stats, spec, (share,), ())[1][-1]
        torch.testing.assert_close(reach(found, spec), torch.tensor([1.0, 2.0]) * kept)


def test_the_shares_of_an_activation_are_those_of_the_percentile_calibrator():
    spec = QuantSpec(4)
    stats = seen(draw(1, 2000, 3), spec)
    for share in (0.9999, 0.99995):
        expected = qparams_from_range(Percentile(100 * share).choose_range(stats, spec), spec)
        found = of(stats, spec, (share,), ())[1][-1]
        torch.testing.assert_close(found, expected)


def test_a_share_is_cut_at_either_end():
    spec = QuantSpec(8)
    x = torch.linspace(-1, 3, 4001)[:, None]
    found = of(seen(x, spec), spec, (0.98,), ())[1][-1]
    low, high = (float(found.scale * (level - found.zero_point)) for level in (0, 255))
    assert low == pytest.approx(-1 + 0.08, abs=0.02)
    assert high == pytest.approx(3 - 0.08, abs=0.02)


def test_multiples_keep_the_zero_point():
    spec = QuantSpec(4)
    own, found = of(seen(draw(2, 100, 3), spec), spec, (), (0.5, 2.0))
    assert [float(q.scale / own.scale) for q in found] == [1.0, 0.5, 2.0]
    assert all(torch.equal(q.zero_point, own.zero_point) for q in found)


def test_what_is_the_same_is_tried_once():
    spec = QuantSpec(4)
    stats = seen(draw(2, 100, 3), spec)
    assert len(of(stats, spec, (1.0, 1.0, 0.98), (1.0, 0.9))[1]) == 4


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("value", [0.0, -1.0, 2.0])
def test_a_channel_that_never_changes(value, symmetric):
    """A dead channel behind a ReLU: its histogram is wider than its range of zero width."""
    spec = QuantSpec(4, symmetric, Granularity.CHANNEL)
    x = draw(0, 700, 4)
    x[:, 1] = value
    stats = seen(x, spec)
    assert isinstance(stats, TensorStats)
    for share in (0.99999, 0.995, 0.98, 0.5):
        found = of(stats, spec, (share,), ())[1][-1]
        assert bool((torch.isfinite(found.scale) & (found.scale > 0)).all())
    low, high = Percentile().choose_range(stats, spec)
    assert bool((low <= high).all())
    assert float(low[1]) == float(high[1]) == value
