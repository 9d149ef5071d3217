# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Running sums equal the same figures of everything at once."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qkit.nn.tensor_quantizer import TensorQuantizer
from qkit.report.sums import ErrorSums, InputSums, grid_ends
from qkit.spec import Granularity, PointId, QParams, QuantSpec

sizes = st.lists(st.integers(1, 6), min_size=1, max_size=5)
moderate = settings(deadline=None, max_examples=40)


def outputs(seed, sizes):
    """Float outputs and what is off, in parts of some sizes."""
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(size, 3, 5, generator=generator) for size in sizes]
    return [(x, x + 0.2 * torch.randn(x.shape, generator=generator)) for x in parts]


@moderate
@given(seed=st.integers(0, 10**6), sizes=sizes)
def test_sums_of_parts_are_those_of_the_whole(seed, sizes):
    parts, sums = outputs(seed, sizes), ErrorSums()
    for output, off in parts:
        sums.add(output, off)
    whole, wrong = (torch.cat(side).double().flatten() for side in zip(*parts, strict=True))
    expected = 10 * math.log10((whole @ whole) / ((wrong - whole) @ (wrong - whole)))
    assert sums.sqnr_db == pytest.approx(expected, rel=1e-5)
    cosine = torch.cosine_similarity(whole, wrong, dim=0).item()
    assert sums.cosine == pytest.approx(cosine, abs=1e-6)


@pytest.mark.parametrize(
    ("output", "off", "sqnr", "cosine"),
    [
        ([3.0, 4.0], [3.0, 4.0], math.inf, 1.0),
        ([3.0, 4.0], [-3.0, -4.0], -6.0206, -1.0),
        ([3.0, 4.0], [-4.0, 3.0], -3.0103, 0.0),
        ([3.0, 4.0], [0.0, 0.0], 0.0, 1.0),
        ([0.0, 0.0], [0.0, 0.0], math.inf, 1.0),
        ([0.0, 0.0], [3.0, 4.0], 0.0, 1.0),
    ],
    ids=["same", "opposite", "square", "silenced", "silent", "out of nothing"],
)
def test_sums_of_extremes(output, off, sqnr, cosine):
    sums = ErrorSums()
    sums.add(torch.tensor([output]), torch.tensor([off]))
    assert sums.sqnr_db == pytest.approx(sqnr, abs=1e-4)
    assert sums.cosine == pytest.approx(cosine, abs=1e-6)


@moderate
@given(seed=st.integers(0, 10**6), sizes=sizes, axis=st.sampled_from([1, -1]))
def test_every_channel_s_ends_are_its_smallest_and_largest_value(seed, sizes, axis):
    parts, sums = [part for part, _ in outputs(seed, sizes)], InputSums()
    for part in parts:
        sums.add(part, axis)
    rows = torch.cat(parts).movedim(axis, 0).flatten(1)
    assert sums.reach.min.tolist() == [min(row) for row in rows.tolist()]
    assert sums.reach.max.tolist() == [max(row) for row in rows.tolist()]


def test_nothing_is_known_before_anything_came():
    sums = InputSums()
    assert sums.reach is None
    assert sums.share_clipped is None


@pytest.mark.parametrize("granularity", list(Granularity)[:2])
def test_values_within_the_ends_are_off_by_half_a_step_and_those_beyond_by_more(
    granularity, normal
):
    scales = torch.tensor([0.1, 0.02, 0.3, 0.05])
    scale = scales if granularity is Granularity.CHANNEL else scales[2]
    zero_point = torch.full(scale.shape, 5, dtype=torch.int32)
    point = TensorQuantizer(PointId("a", "input"), QuantSpec(3, False, granularity), axis=1)
    point.set_qparams(QParams(scale, zero_point))
    x = normal(7, 4, 9)
    low, high = grid_ends(point, x.ndim)
    steps = (point.round(x) - x).abs() / (scale[:, None] if scale.ndim else scale)
    inside = (x >= low) & (x <= high)
    assert 0 < int(inside.sum()) < x.numel()
    assert bool((steps[inside] <= 0.5 + 1e-4).all())
    assert bool((steps[~inside] > 0.5 - 1e-4).all())
    sums = InputSums()
    sums.add_clipping(x, point)
    sums.add_clipping(x[:1], point)
    clipped = int((~inside).sum()) + int((~inside[:1]).sum())
    assert sums.share_clipped == clipped / (x.numel() + x[:1].numel())
