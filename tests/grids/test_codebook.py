# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Rounding to a grid that is not uniform: the nearest value, by brute force and by properties."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qkit.grids.codebook import Codebook, codebook, grid_of
from qkit.grids.shapes import SHAPES
from qkit.numerics import Grid
from qkit.spec import GridKind, QParams, QuantSpec

moderate = settings(deadline=None, max_examples=80)
NAMES = list(SHAPES)


@st.composite
def books(draw):
    grid = draw(st.sampled_from(NAMES))
    parameter = draw(st.sampled_from(SHAPES[grid].parameters))
    least = -6.0 if SHAPES[grid].offset == 0 else -0.7  # its largest value is never below zero
    scale = torch.tensor(10.0 ** draw(st.floats(least, 3)), dtype=torch.float32)
    q = QParams(scale, torch.tensor(parameter, dtype=torch.int32))
    return codebook(q, QuantSpec(draw(st.integers(2, 8)), grid=grid))


@st.composite
def data(draw, book):
    """Values on the grid, between its values, and beyond its ends."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    low, high = book.values[0], book.values[-1]
    even = low + (high - low) * (1.4 * torch.rand(50, generator=generator) - 0.2)
    near_zero = high * torch.exp2(-20 * torch.rand(50, generator=generator))
    return torch.cat([even, near_zero, -near_zero, book.values, book.edges])


@moderate
@given(st.data())
def test_the_nearest_value_is_taken(draw):
    book = draw.draw(books())
    x = draw.draw(data(book))
    found = (book.round(x).double() - x.double()).abs()
    least = (book.values.double() - x.double()[:, None]).abs().amin(dim=1)
    slack = 1e-6 * (x.abs() + book.values.abs().max() * 1e-3)  # edges are float32
    assert bool((found <= least + slack).all())


@moderate
@given(st.data())
def test_rounding_is_idempotent_monotone_and_on_the_grid(draw):
    book = draw.draw(books())
    ascending = draw.draw(data(book)).sort().values
    rounded = book.round(ascending)
    assert torch.equal(book.round(rounded), rounded)
    assert bool((rounded.diff() >= 0).all())
    assert bool(torch.isin(rounded, book.values).all())
    assert torch.equal(book.values[book.codes(ascending)], rounded)


@moderate
@given(st.data())
def test_inside_the_ends_a_value_is_off_by_half_a_gap_at_most(draw):
    book = draw.draw(books())
    x = draw.draw(data(book)).clamp(book.values[0], book.values[-1])
    above = torch.searchsorted(book.values, x).clamp(1, len(book.values) - 1)
    gap = book.values[above] - book.values[above - 1]
    assert bool(((book.round(x) - x).abs() <= gap * 0.5001 + 2e-7 * x.abs()).all())


@pytest.mark.parametrize("grid", NAMES)
def test_the_gradient_passes_between_the_ends_and_stops_beyond(grid):
    parameter = SHAPES[grid].parameters[0]
    book = codebook(
        QParams(torch.tensor(0.5), torch.tensor(parameter, dtype=torch.int32)),
        QuantSpec(4, grid=grid),
    )
    low, high = book.values[0].item(), book.values[-1].item()
    x = torch.tensor([low - 1, low, (low + high) / 2, high, high + 1], requires_grad=True)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    (book.round(x) * weights).sum().backward()
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 0.0]


@pytest.mark.parametrize("grid", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_come_back_as_they_were(grid, dtype):
    parameter = torch.tensor(SHAPES[grid].parameters[-1], dtype=torch.int32)
    book = codebook(QParams(torch.tensor(0.25), parameter), QuantSpec(4, grid=grid))
    x = torch.linspace(0, 1, 17, dtype=dtype)
    assert book.round(x).dtype == dtype
    assert torch.equal(book.round(x), book.round(x.float()).to(dtype))


def test_uniform_specs_keep_the_uniform_grid():
    q = QParams(torch.tensor(0.5), torch.tensor(3, dtype=torch.int32))
    assert isinstance(grid_of(q, QuantSpec(4)), Grid)
    assert isinstance(grid_of(q, QuantSpec(4, grid=GridKind.LOG)), Codebook)
    x = torch.linspace(-3, 9, 50)
    expected = torch.fake_quantize_per_tensor_affine(x, 0.5, 3, 0, 15)
    assert torch.equal(grid_of(q, QuantSpec(4)).round(x), expected)
