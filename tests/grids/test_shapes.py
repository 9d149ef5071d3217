# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The values of each kind of grid, against their formulas in plain arithmetic."""

import math

import pytest

from qkit.grids.shapes import GELU_REACH, OCTAVES, SHAPES, holds
from qkit.spec import GridKind

LOGS = {GridKind.LOG2: 1, GridKind.LOG_SQRT2: 2}
BITS = range(2, 9)
EVERY = [
    (grid, bits, parameter)
    for grid, shape in SHAPES.items()
    for bits in BITS
    for parameter in shape.parameters
]


def units(grid, bits, parameter):
    return SHAPES[grid].units(bits, parameter).tolist()


def test_every_kind_has_a_shape_but_the_uniform_and_the_normal_one():
    assert set(SHAPES) == set(GridKind) - {GridKind.UNIFORM, GridKind.NORMAL}


@pytest.mark.parametrize("grid", [k for k in SHAPES if "log" in k])
@pytest.mark.parametrize("bits", BITS)
def test_logarithmic_units_are_zero_and_powers_of_the_base(grid, bits):
    for steps in SHAPES[grid].parameters:
        codes = min(2**bits - 1, OCTAVES * steps)
        expected = [0.0, *(2 ** (-k / steps) for k in reversed(range(codes)))]
        assert units(grid, bits, steps) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("m", [0, 1, 5, 15])
def test_twin_units_are_two_halves_whose_steps_differ_by_a_power_of_two(bits, m):
    half = range(2 ** (bits - 1))
    coarse = {i << m for i in half}
    assert units(GridKind.TWIN, bits, m) == sorted(coarse | set(half))
    assert units(GridKind.TWIN_SIGNED, bits, m) == sorted(coarse | {-i for i in half})


@pytest.mark.parametrize(("grid", "bits", "parameter"), EVERY)
def test_units_ascend_fit_the_bits_and_hold_zero(grid, bits, parameter):
    found = units(grid, bits, parameter)
    assert len(found) <= 2**bits
    assert found == sorted(set(found))
    assert 0.0 in found
    assert all(math.copysign(1, unit) > 0 for unit in found if unit == 0)


@pytest.mark.parametrize(("grid", "steps"), LOGS.items())
def test_the_papers_grids_have_their_base_and_no_other(grid, steps):
    assert SHAPES[grid].parameters == (steps,)
    assert SHAPES[grid].offset == 0.0


def test_the_offset_takes_in_all_that_a_gelu_puts_out():
    x = [i / 1000 for i in range(-8000, 1)]
    exact = min(v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x)
    root = math.sqrt(2 / math.pi)
    tanh = min(v * 0.5 * (1 + math.tanh(root * (v + 0.044715 * v**3))) for v in x)
    quick = min(v / (1 + math.exp(-1.702 * v)) for v in x)
    assert -GELU_REACH <= exact < -0.1699
    assert quick > exact
    assert all(holds(GridKind.SHIFTED_LOG, low) for low in (exact, tanh, quick))


@pytest.mark.parametrize(
    ("grid", "low", "fits"),
    [
        (GridKind.LOG2, 0.0, True),
        (GridKind.LOG2, -0.1, False),
        (GridKind.TWIN, -0.1, False),
        (GridKind.SHIFTED_LOG, -0.5, False),
        (GridKind.TWIN_SIGNED, -50.0, True),
    ],
)
def test_what_a_grid_cannot_hold_is_known(grid, low, fits):
    assert holds(grid, low) is fits
