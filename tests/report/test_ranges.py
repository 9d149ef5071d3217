# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a report says of a tensor's values and grid, against the tensor itself."""

import pytest
import torch

from qkit.graph.layers import Layer
from qkit.nn.linear import QuantLinear
from qkit.numerics import qparams_from_range
from qkit.observers import make_observer, read_stats, weight_stats
from qkit.report.layer import BINS
from qkit.report.ranges import histogram, tensor_reports
from qkit.spec import Granularity, QParams, QuantSpec, Range, Scheme

TENSOR, CHANNEL, TOKEN = Granularity
SHAPE = (3, 7, 10)


@pytest.fixture
def x(normal):
    """An input whose channels are of unlike widths, none of them centred."""
    return normal(*SHAPE) * torch.linspace(0.2, 3.0, SHAPE[-1]) + 0.4


@pytest.fixture
def reported(x, normal):
    """Reports of a layer's weight and input; its grids cover a share of the range."""

    def run(weight, input_, share=1.0):
        module = QuantLinear(SHAPE[-1], 6)
        module.weight.data = normal(6, SHAPE[-1]) * torch.linspace(0.5, 2, 6)[:, None]
        module.attach("a", Scheme(weight, input_))
        observer = make_observer(input_, -1)
        for part in x:
            observer(part[None])
        own, input_point = module.weight_quantizer, module.input_quantizer
        seen = {
            own.point: weight_stats(module.weight, weight.granularity),
            input_point.point: read_stats(observer),
        }
        for point in (own, input_point):
            stats = seen[point.point]
            if not point.spec.dynamic:
                range_ = Range(share * stats.min_val, share * stats.max_val)
                point.set_qparams(qparams_from_range(range_, point.spec))
        layer = Layer("a", "image", "linear", module)
        return module, tensor_reports(layer, seen)

    return run


@pytest.mark.parametrize("granularity", list(Granularity))
def test_every_value_is_counted_between_the_smallest_and_the_largest(reported, x, granularity):
    kind = TENSOR if granularity is TOKEN else granularity
    module, found = reported(QuantSpec(4, True, kind), QuantSpec(4, False, granularity))
    assert [each.role for each in found] == ["weight", "input"]
    for report, values in zip(found, (module.weight, x), strict=True):
        assert (report.values.low, report.values.high) == (values.min().item(), values.max().item())
        assert len(report.values.counts) == BINS
        assert sum(report.values.counts) == values.numel()


def test_a_weight_s_values_lie_in_their_bins(reported):
    module, (found, _) = reported(QuantSpec(4, True, CHANNEL), QuantSpec(4))
    low, width = found.values.low, (found.values.high - found.values.low) / BINS
    places = [int((value - low) / width) for value in module.weight.flatten().tolist()]
    counted = [sum(min(place, BINS - 1) == i for place in places) for i in range(BINS)]
    assert list(found.values.counts) == counted


@pytest.mark.parametrize("granularity", [TENSOR, CHANNEL])
def test_an_input_s_values_lie_near_their_bins(reported, x, granularity):
    _, (_, found) = reported(QuantSpec(4, True, CHANNEL), QuantSpec(4, False, granularity))
    below = torch.tensor(found.values.counts).cumsum(0) / x.numel()
    ends = torch.linspace(found.values.low, found.values.high, BINS + 1)[1:]
    true = torch.stack([(x <= end).float().mean() for end in ends])
    assert (below - true).abs().max() < 0.02


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("granularity", [TENSOR, CHANNEL])
def test_the_grid_ends_at_its_smallest_and_largest_integer(reported, granularity, symmetric):
    spec = QuantSpec(4, symmetric, granularity)
    module, found = reported(spec, spec)
    for report, point in zip(found, (module.weight_quantizer, module.input_quantizer), strict=True):
        pairs = zip(point.scale.flatten(), point.zero_point.flatten(), strict=True)
        lowest, highest = (-8, 7) if symmetric else (0, 15)
        ends = [((lowest - int(z)) * float(s), (highest - int(z)) * float(s)) for s, z in pairs]
        assert report.grid_low == pytest.approx(min(low for low, _ in ends))
        assert report.grid_high == pytest.approx(max(high for _, high in ends))
        assert report.step == pytest.approx(point.scale.median().item())
        assert (report.bits, report.symmetric) == (4, symmetric)
        assert report.granularity == granularity.value


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("granularity", [TENSOR, CHANNEL])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.25])
def test_the_span_is_the_share_of_the_range_that_is_covered(
    reported, granularity, symmetric, share
):
    spec = QuantSpec(8, symmetric, granularity)
    _, (weight, input_) = reported(QuantSpec(8, False, granularity), spec, share)
    assert weight.span == pytest.approx(share, abs=0.01)
    if symmetric and share < 1:  # the shorter side is covered further than asked for
        assert share < input_.span < 1
    else:
        assert input_.span == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_zero_belongs_to_the_range_of_values_that_are_all_positive(reported, x, share):
    x.abs_().add_(2.0)
    _, (_, found) = reported(QuantSpec(4, True, CHANNEL), QuantSpec(8), share)
    assert found.span == pytest.approx(share, abs=0.01)


def test_of_unlike_channels_the_median_s_span_is_said(reported):
    module, _ = reported(QuantSpec(8, True, CHANNEL), QuantSpec(8))
    point = module.weight_quantizer
    shares = torch.tensor([1.0, 0.1, 0.25, 0.2, 0.9])  # and the sixth as before
    point.set_qparams(QParams(point.scale * torch.cat([shares, torch.ones(1)]), point.zero_point))
    seen = {point.point: weight_stats(module.weight, CHANNEL)}
    module.input_quantizer = None
    (found,) = tensor_reports(Layer("a", "image", "linear", module), seen)
    assert 0.25 <= found.span < 0.4


def test_a_grid_that_reaches_too_far_covers_all(reported):
    _, (weight, input_) = reported(QuantSpec(4, True, CHANNEL), QuantSpec(4), share=3.0)
    assert weight.span == input_.span == 1.0


def test_a_per_token_input_has_no_grid_of_its_own(reported):
    _, (_, found) = reported(QuantSpec(4, True, CHANNEL), QuantSpec(4, False, TOKEN))
    assert (found.grid_low, found.grid_high, found.step, found.span) == (None,) * 4
    assert found.granularity == "token"


def test_one_bin_may_hold_more_values_than_float32_counts():
    many = (1 << 24) + 12
    found = histogram(torch.zeros(many), -1.0, 1.0)
    assert sum(found.counts) == max(found.counts) == many


def test_values_all_the_same_are_counted():
    assert sum(histogram(torch.full((5,), 2.5), 2.5, 2.5).counts) == 5
