# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Which grid of a kind is chosen: the given upper end, and the least squared error."""

import pytest
import torch

from qkit.grids.codebook import codebook
from qkit.grids.fit import Sample, fit, qparams_up_to, sample_of
from qkit.grids.shapes import SHAPES
from qkit.spec import GridKind, Histogram, QuantSpec


def sample(x):
    return Sample(x, torch.full_like(x, 1 / x.numel()))


@pytest.mark.parametrize("grid", SHAPES)
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("high", [1e-3, 0.7, 40.0])
def test_the_largest_value_is_the_upper_end(grid, bits, high):
    spec = QuantSpec(bits, grid=grid)
    for parameter in SHAPES[grid].parameters:
        q = qparams_up_to(torch.tensor(high), spec, parameter)
        assert (q.scale.dtype, q.zero_point.dtype) == (torch.float32, torch.int32)
        assert int(q.zero_point) == parameter
        assert codebook(q, spec).values[-1].item() == pytest.approx(high, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("grid", SHAPES)
def test_the_least_error_of_all_parameters_is_chosen(normal, grid):
    x, spec = torch.nn.functional.gelu(2 * normal(2000)), QuantSpec(5, grid=grid)
    x = x if grid in ("twin-signed", "shifted-log") else x.clamp(min=0)
    q, error = fit(x.max(), spec, sample(x))
    tried = [qparams_up_to(x.max(), spec, p) for p in SHAPES[grid].parameters]
    errors = [(codebook(t, spec).round(x) - x).square().mean().item() for t in tried]
    assert error.item() == pytest.approx(min(errors), rel=1e-4)
    assert int(q.zero_point) == SHAPES[grid].parameters[errors.index(min(errors))]


def test_a_wide_tensor_takes_few_steps_an_octave_and_a_narrow_one_many():
    wide = torch.exp2(-torch.linspace(0, 14, 3000))
    narrow = torch.exp2(-torch.linspace(0, 1, 3000))
    spec = QuantSpec(4, grid=GridKind.LOG)
    steps = [int(fit(torch.tensor(1.0), spec, sample(x))[0].zero_point) for x in (wide, narrow)]
    assert steps[0] < steps[1] == 12


def test_a_tensor_that_is_all_zero_gets_a_grid_too():
    q, error = fit(torch.tensor(0.0), QuantSpec(4, grid=GridKind.LOG2), sample(torch.zeros(5)))
    assert q.scale > 0
    assert error == 0


def test_a_histogram_stands_for_its_values():
    counts = torch.tensor([3.0, 0.0, 1.0])
    values, weights = sample_of(Histogram(counts, torch.tensor(0.0), torch.tensor(3.0)))
    assert weights.sum() == pytest.approx(1.0)
    assert weights.view(3, -1).sum(1).tolist() == pytest.approx([0.75, 0.0, 0.25])
    assert (values * weights).sum() == pytest.approx(0.75 * 0.5 + 0.25 * 2.5)
