# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Each grid as a kernel would run it: integers, shifts and additions, and few multiplications."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qkit.grids.codebook import codebook
from qkit.grids.shapes import OCTAVES, SHAPES
from qkit.spec import GridKind, QParams, QuantSpec

ROWS, INNER, OUT = 6, 40, 5
LOGS = [GridKind.LOG2, GridKind.LOG_SQRT2, GridKind.LOG]
TWINS = [GridKind.TWIN, GridKind.TWIN_SIGNED]
few = settings(deadline=None, max_examples=40)


@st.composite
def cases(draw, grids):
    """A spec, its qparams, codes ``(ROWS, INNER)`` and an int8 operand ``(INNER, OUT)``."""
    spec = QuantSpec(draw(st.integers(2, 8)), grid=draw(st.sampled_from(grids)))
    parameter = draw(st.sampled_from(SHAPES[spec.grid].parameters))
    scale = torch.tensor(draw(st.floats(0.01, 3.0)), dtype=torch.float32)
    q = QParams(scale, torch.tensor(parameter, dtype=torch.int32))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    book = codebook(q, spec)
    x = book.values[-1] * torch.rand(ROWS, INNER, generator=generator) ** 3
    if spec.grid is GridKind.TWIN_SIGNED:
        x = x * (torch.rand(x.shape, generator=generator) - 0.3)
    operand = torch.randint(-127, 128, (INNER, OUT), generator=generator)
    return spec, q, book, x, operand.numpy().astype(np.int64)


def exact(x):
    """Python's exact fractions of a tensor's values."""
    return np.vectorize(Fraction, otypes=[object])(x.double().numpy())


def shifted_sums(codes, levels, steps, operand):
    """Accumulators ``(steps, ROWS, OUT)``: additions of shifted integers, as in an int32."""
    last = levels - 1
    sums = np.zeros((steps, ROWS, OUT), dtype=np.int64)
    for row, inner in np.ndindex(ROWS, INNER):
        code = int(codes[row, inner])
        if code == 0:
            continue
        octave, part = divmod(last - code, steps)
        sums[part, row] += operand[inner] << (OCTAVES - 1 - octave)
    assert np.abs(sums).max() < 2**31
    return sums


@few
@given(cases(LOGS))
def test_a_logarithmic_product_is_shifts_additions_and_a_multiplication_a_step(case):
    """Exactly: both sides as fractions."""
    _, q, book, x, operand = case
    steps = int(q.zero_point)
    sums = shifted_sums(book.codes(x), len(book.values), steps, operand)
    # the values of the first octave are the multipliers; all others are exact shifts of them
    multipliers = [
        Fraction(book.values[-1 - j].item()) if j + 1 < len(book.values) else 0
        for j in range(steps)
    ]
    found = sum(m * s.astype(object) for m, s in zip(multipliers, sums, strict=True))
    assert (found / Fraction(2 ** (OCTAVES - 1)) == exact(book.round(x)) @ operand).all()


@few
@given(cases([GridKind.SHIFTED_LOG]))
def test_a_shifted_one_adds_its_offset_to_the_bias(case):
    spec, q, book, x, operand = case
    steps, offset = int(q.zero_point), SHAPES[spec.grid].offset
    sums = shifted_sums(book.codes(x), len(book.values), steps, operand)
    factors = q.scale.item() * 2.0 ** (-np.arange(steps) / steps) / 2 ** (OCTAVES - 1)
    found = np.tensordot(factors, sums, 1) - offset * operand.sum(axis=0)
    expected = book.round(x).double().numpy() @ operand
    size = np.abs(book.values.numpy()).max() * np.abs(operand).sum(axis=0).max()
    np.testing.assert_allclose(found, expected, atol=1e-6 * size)


@few
@given(cases(TWINS))
def test_a_twin_product_is_two_sums_one_of_them_shifted(case):
    spec, q, book, x, operand = case
    m, half = int(q.zero_point), 1 << (spec.bits - 1)
    units = SHAPES[spec.grid].units(spec.bits, m)
    levels = units.long().numpy()[book.codes(x).numpy()]
    signed = spec.grid is GridKind.TWIN_SIGNED
    coarse = levels > 0 if signed else levels >= half
    assert (levels[coarse] % (1 << m) == 0).all()
    fine_codes, coarse_codes = np.where(coarse, 0, levels), np.where(coarse, levels >> m, 0)
    assert np.abs(fine_codes).max() < half
    assert coarse_codes.max() < half
    whole = fine_codes @ operand + ((coarse_codes @ operand) << m)
    assert (whole == levels @ operand).all()  # exactly, in integers
    rounded = (q.scale.double() * torch.from_numpy(levels)).float()
    assert torch.equal(book.round(x), rounded)  # the fake-quantized tensor is scale * integers


@pytest.mark.parametrize("m", [0, 1, 7, 15])
def test_a_comparison_with_half_an_octave_more_finds_the_nearest_power(m):
    """1.5 * 2^k, one bit below the leading one, decides between 2^k and 2^(k+1)."""
    q = QParams(torch.tensor(1.0), torch.tensor(1, dtype=torch.int32))
    book = codebook(q, QuantSpec(5, grid=GridKind.LOG2))
    power = 2.0**-m
    x = torch.tensor([1.49 * power, 1.51 * power]).clamp(max=1.0)
    assert book.round(x).tolist() == [power, min(1.0, 2 * power)]
