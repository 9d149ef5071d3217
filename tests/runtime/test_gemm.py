# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The integer product against the same sums in int64, by hand."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qkit.errors import ModelError
from qkit.nn.integers import IntegerWeight
from qkit.nn.operand import Operand
from qkit.nn.product import ExactProduct, Requantized
from qkit.runtime.gemm import Gemm
from qkit.runtime.kernels import missing_kernel
from qkit.runtime.matmul import MatmulGemm
from tests.runtime.conftest import same_bits

SIZES = [(1, 1, 1), (3, 5, 7), (2, 17, 3), (7, 64, 10), (50, 130, 33), (65, 768, 16)]


@pytest.fixture(autouse=True)
def _kernels():
    if (missing := missing_kernel()) is not None:
        pytest.skip(missing)


def numbers(rows, inner, outer, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-128, 128, (outer, inner), dtype=torch.int8, generator=generator)
    levels = torch.randint(0, 256, (rows, inner), dtype=torch.uint8, generator=generator)
    scale = torch.rand(outer, generator=generator) / 100 + 1e-3
    bias = torch.randn(outer, generator=generator)
    return levels, IntegerWeight(values, scale), bias


def by_hand(levels, zero, scale, weight, bias):
    """``zero`` and ``scale`` of all, or one a row as a column."""
    accumulators = (levels.long() - zero) @ weight.values.long().T
    return accumulators.double() * scale * weight.scale.double() + bias.double()


def close(found, expected):
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("zero", [0, 131, 255])
@pytest.mark.parametrize("size", SIZES)
def test_one_scale_for_all_rows(size, zero):
    levels, weight, bias = numbers(*size)
    found = Gemm(weight, bias)(Operand(levels, 0.02, zero))
    close(found, by_hand(levels, zero, 0.02, weight, bias))


@pytest.mark.parametrize("size", SIZES)
def test_a_scale_and_a_zero_point_for_each_row(size):
    levels, weight, bias = numbers(*size)
    scale = torch.rand(size[0], 1) + 0.1
    excess = torch.randint(-128, 128, (size[0],))
    found = Gemm(weight, bias)(Operand(levels, scale, 128, excess.float()))
    close(found, by_hand(levels, 128 + excess[:, None], scale.double(), weight, bias))


@pytest.mark.parametrize("scale", [0.5, torch.full((3, 1), 0.5)], ids=["tensor", "token"])
def test_no_bias(scale):
    levels, weight, _ = numbers(3, 20, 9)
    found = Gemm(weight, None)(Operand(levels, scale, 3))
    close(found, by_hand(levels, 3, 0.5, weight, torch.zeros(9)))


@pytest.mark.parametrize("scale", [0.002, torch.full((3, 1), 0.002)], ids=["tensor", "token"])
def test_the_exact_gelu(scale):
    levels, weight, bias = numbers(3, 20, 9)
    found = Gemm(weight, bias)(Operand(levels, scale, 3), "gelu")
    close(found, torch.nn.functional.gelu(by_hand(levels, 3, 0.002, weight, bias)))


@pytest.mark.parametrize("which", ["levels", "weight"])
def test_operands_that_are_not_contiguous(which):
    levels, weight, bias = numbers(16, 16, 16)  # square, where a wrong stride raises nothing
    expected = by_hand(levels, 7, 0.1, weight, bias)
    if which == "levels":
        levels = levels.t().contiguous().t()
    else:
        weight = weight._replace(values=weight.values.t().contiguous().t())
    close(Gemm(weight, bias)(Operand(levels, 0.1, 7)), expected)


@pytest.mark.parametrize("largest", [15, 255])
def test_an_output_in_integers_is_the_float_one_rounded(largest):
    levels, weight, bias = numbers(40, 64, 48)
    gemm, operand = Gemm(weight, bias), Operand(levels, 0.01, 120)
    wide = gemm(operand).double() / 0.05 + 9
    found = gemm.requantized(operand, Requantized(0.05, 9, largest), "none")
    assert (found.scale, found.zero) == (0.05, 9)
    assert found.values.dtype == torch.uint8
    assert found.values.max() == largest
    tie = (wide - wide.floor() - 0.5).abs() < 1e-3
    expected = wide.round().clamp(0, largest)
    assert torch.equal(found.values.double()[~tie], expected[~tie])
    assert (found.values.double() - expected).abs().max() <= 1


@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 40), st.integers(0, 255))
def test_any_size_and_zero_point(rows, inner, outer, zero):
    levels, weight, bias = numbers(rows, inner, outer, seed=rows * inner + outer)
    found = Gemm(weight, bias)(Operand(levels, 0.02, zero))
    close(found, by_hand(levels, zero, 0.02, weight, bias))


def test_sums_beyond_16_bits_do_not_saturate():
    weight = IntegerWeight(torch.full((2, 512), 127, dtype=torch.int8), torch.ones(2))
    levels = torch.full((3, 512), 255, dtype=torch.uint8)
    assert Gemm(weight, None)(Operand(levels, 1.0, 0)).unique().item() == 512 * 127 * 255


@pytest.mark.parametrize("which", [Gemm, ExactProduct, MatmulGemm])
def test_sums_beyond_what_float32_counts_are_rounded_once(which):
    weight = IntegerWeight(torch.full((2, 3001), 127, dtype=torch.int8), torch.ones(2))
    levels = torch.full((3, 3001), 255, dtype=torch.uint8)
    levels[1, 7], levels[2, :1500] = 254, 0
    exact = levels.long() @ weight.values.long().T
    assert torch.equal(which(weight, None)(Operand(levels, 1.0, 0)), exact.float())


def test_copied_it_is_itself_and_pickled_it_is_refused():
    gemm = Gemm(numbers(1, 4, 4)[1], None)
    assert copy.deepcopy(gemm) is gemm
    with pytest.raises(ModelError, match=r"cannot be pickled. Load it from its run folder again"):
        pickle.dumps(gemm)


@given(st.integers(1, 20), st.integers(1, 300), st.integers(1, 20), st.booleans())
def test_the_kernel_gives_exact_sums_in_float32(rows, inner, outer, curved):
    activation = "gelu" if curved else "none"
    levels, weight, bias = numbers(rows, inner, outer, seed=rows + inner * outer)
    gemm, exact = Gemm(weight, bias), ExactProduct(weight, bias)
    for scale in (0.0213, torch.rand(rows, 1) + 0.01):
        excess = None if isinstance(scale, float) else torch.arange(rows).float()
        operand = Operand(levels, scale, 128, excess)
        expected = exact(operand, activation)
        torch.testing.assert_close(gemm(operand, activation), expected, rtol=1e-6, atol=1e-5)
    static, target = Operand(levels, 0.0213, 128), Requantized(0.031, 7, 255)
    found, expected = (g.requantized(static, target, activation) for g in (gemm, exact))
    off = (found.values.int() - expected.values.int()).abs().max()
    assert off == 0 if same_bits() else off <= 1


@given(st.integers(1, 40), st.integers(1, 600), st.integers(1, 20), st.integers(0, 255))
def test_int_mm_gives_the_bits_of_exact_sums(rows, inner, outer, zero):
    levels, weight, bias = numbers(rows, inner, outer, seed=rows + inner * outer)
    ways = [MatmulGemm(weight, bias), ExactProduct(weight, bias)]
    for scale, activation in ((0.0213, "gelu"), (torch.rand(rows, 1) + 0.01, "none")):
        excess = None if isinstance(scale, float) else torch.arange(rows).float()
        found, expected = (way(Operand(levels, scale, zero, excess), activation) for way in ways)
        assert torch.equal(found, expected)
    target = Requantized(0.031, 7, 255)
    found, expected = (w.requantized(Operand(levels, 0.2, zero), target, "none") for w in ways)
    assert torch.equal(found.values, expected.values)
