# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Inputs as integers, against the rounded floats of the reference."""

import pytest
import torch

from qkit.nn.rounders import rounder_of
from qkit.nn.tensor_quantizer import Mode, TensorQuantizer
from qkit.spec import Affine, Granularity, GridKind, PointId, QParams, QuantSpec
from qkit.transform import Transform

TOKEN = Granularity.TOKEN


def point_of(spec, transform=None, zero=0):
    point = TensorQuantizer(PointId("layer", "input"), spec, axis=-1)
    point.set_transform(transform)
    if not spec.dynamic:
        point.set_qparams(QParams(torch.tensor(0.013), torch.tensor(zero, dtype=torch.int32)))
    point.set_mode(Mode.QUANTIZE)
    return point


def dequantized(operand):
    excess = 0 if operand.excess is None else operand.excess[:, None]
    return (operand.values.float() - operand.zero - excess) * operand.scale


def same(point, x):
    operand, whole = rounder_of(point)(x), rounder_of(point).whole(x)
    assert operand.values.dtype == torch.uint8
    torch.testing.assert_close(dequantized(operand), point.coordinates(point(x)), **CLOSE)
    assert (whole.values.dtype, whole.zero) == (torch.float32, 0)
    assert torch.equal(whole.values, operand.values.float() - operand.zero)
    assert torch.equal(torch.as_tensor(whole.scale), torch.as_tensor(operand.scale))
    assert (whole.excess is None) == (operand.excess is None)
    assert whole.excess is None or torch.equal(whole.excess, operand.excess)


CLOSE = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture
def x(normal):
    """Rows of very different ranges, one of zeros, one all positive, one all negative."""
    rows = normal(9, 24) * torch.logspace(-3, 1, 9)[:, None]
    rows[0], rows[1], rows[2] = 0.0, rows[1].abs() + 1, -rows[2].abs() - 1
    return rows


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])
def test_one_scale(x, bits, symmetric):
    for zero in (0,) if symmetric else (0, 1, (1 << bits) - 1):
        same(point_of(QuantSpec(bits, symmetric), zero=zero), x)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])
@pytest.mark.parametrize("clip", [1.0, 0.7])
def test_a_scale_a_row(x, bits, symmetric, clip):
    same(point_of(QuantSpec(bits, symmetric, TOKEN), Transform(clip=clip)), x)


@pytest.mark.parametrize("bits", [2, 4, 6])
@pytest.mark.parametrize("clip", [1.0, 0.7])
def test_a_normal_grid(x, bits, clip):
    same(
        point_of(QuantSpec(bits, granularity=TOKEN, grid=GridKind.NORMAL), Transform(clip=clip)), x
    )


def rotation(normal):
    q, _ = torch.linalg.qr(normal(24, 24))
    return Transform(shift=normal(24), gain=normal(24).abs() + 0.5, after=[q])


@pytest.mark.parametrize("grid", [GridKind.UNIFORM, GridKind.NORMAL])
def test_other_coordinates(x, normal, grid):
    point = point_of(QuantSpec(4, granularity=TOKEN, grid=grid), rotation(normal))
    operand, z = rounder_of(point)(x), point.coordinates(x)
    plain = point_of(point.spec)
    torch.testing.assert_close(dequantized(operand), plain(z), **CLOSE)


def test_a_learned_gain_and_shift(x, normal):
    point = point_of(QuantSpec(8), zero=100)
    point.set_affine(Affine(normal(24), normal(24)))
    torch.testing.assert_close(dequantized(rounder_of(point)(x)), point(x), **CLOSE)


def test_it_rounds_in_any_mode_and_leaves_its_input_alone(x):
    point = point_of(QuantSpec(4, granularity=TOKEN))
    before, expected = x.clone(), rounder_of(point)(x).values
    point.set_mode(Mode.OFF)
    assert torch.equal(rounder_of(point)(x).values, expected)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (QuantSpec(8, granularity=Granularity.CHANNEL), "one scale a channel"),
        (QuantSpec(4, grid=GridKind.LOG2), "grid = 'log2'"),
        (QuantSpec(4, symmetric=True, grid=GridKind.NORMAL), "grid = 'normal'"),
    ],
    ids=str,
)
def test_what_is_no_operand_says_so(spec, reason):
    assert reason in rounder_of(TensorQuantizer(PointId("a", "input"), spec, axis=-1))


def test_neighbours_on_either_side_of_a_tie_are_a_whole_step_apart():
    """Why integer and simulated models may differ: sums that differ by 1e-7 may round apart."""
    rounder = rounder_of(point_of(QuantSpec(8), zero=128))
    before = near = torch.full((1, 1), 2.49999 * rounder.scale)
    while int(rounder(near).values) == 130:
        before, near = near, near.nextafter(torch.tensor(1.0))
    assert int(rounder(near).values) - int(rounder(before).values) == 1
    assert float(near - before) < 1e-6 * rounder.scale


def test_a_float_input_says_so():
    assert rounder_of(None) == "its input stays in float"
