# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Packed integers: no gap between them, and none lost."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from qkit.artifact import packing
from qkit.artifact.packing import pack, packed_bytes, unpack

ALL_BITS = range(2, 9)


def levels(bits, shape):
    return arrays(np.uint8, shape, elements=st.integers(0, 2**bits - 1))


@st.composite
def tables(draw):
    bits = draw(st.integers(2, 8))
    shape = draw(array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=9))
    return bits, torch.from_numpy(draw(levels(bits, shape)))


@settings(deadline=None, max_examples=200)
@given(tables())
@example((3, torch.zeros(0, dtype=torch.uint8)))
@example((8, torch.tensor(255, dtype=torch.uint8)))
def test_unpacking_gives_the_integers_back_in_exactly_their_bits(table):
    bits, values = table
    packed = pack(values, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (math.ceil(values.numel() * bits / 8),)
    assert packed.numel() == packed_bytes(values.numel(), bits)
    assert torch.equal(unpack(packed, bits, tuple(values.shape)), values)


@pytest.mark.parametrize("bits", ALL_BITS)
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_any_length_across_chunks(bits, data):
    """With chunks of 16 values, so that many of them meet."""
    values = torch.from_numpy(data.draw(levels(bits, data.draw(st.integers(0, 70)))))
    whole = pack(values, bits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "CHUNK", 16)
        assert torch.equal(pack(values, bits), whole)
        assert torch.equal(unpack(whole, bits, (len(values),)), values)


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("extra", [-1, 0, 3])
def test_around_the_size_of_a_real_chunk(bits, extra):
    count = packing.CHUNK + extra
    values = torch.randint(0, 2**bits, (count,), generator=torch.Generator().manual_seed(bits))
    packed = pack(values, bits)
    assert packed.numel() == packed_bytes(count, bits)
    assert torch.equal(unpack(packed, bits, (count,)), values.to(torch.uint8))


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize(
    "view", [lambda t: t.T, lambda t: t[::2, 1:], lambda t: t[:, :1].expand(6, 5)]
)
def test_strided_input_is_packed_row_by_row(bits, view):
    values = view((torch.arange(42).reshape(6, 7) * 5) % 2**bits)
    packed = pack(values, bits)
    assert torch.equal(packed, pack(values.contiguous(), bits))
    assert torch.equal(unpack(packed, bits, tuple(values.shape)), values.to(torch.uint8))


def test_lowest_bit_first_and_the_last_byte_filled_with_zeros():
    assert pack(torch.tensor([1, 2, 3]), 4).tolist() == [0x21, 0x03]
    assert pack(torch.tensor([3, 0, 2, 1, 3]), 2).tolist() == [0b01_10_00_11, 0b11]
    assert pack(torch.tensor([0b101, 0b011, 0b111]), 3).tolist() == [0b11_011_101, 0b1]


@pytest.mark.parametrize("bits", [4, 8])
def test_packing_leaves_its_input_alone(bits):
    values = torch.arange(12, dtype=torch.uint8)
    packed = pack(values, bits)
    packed.zero_()
    assert values.tolist() == list(range(12))


@pytest.mark.parametrize(("count", "bits", "size"), [(0, 4, 0), (1, 2, 1), (9, 4, 5), (8, 3, 3)])
def test_packed_bytes(count, bits, size):
    assert packed_bytes(count, bits) == size


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("extra", [-1, 1])
def test_bytes_of_another_number_of_integers_are_refused(bits, extra):
    packed = torch.zeros(packed_bytes(40, bits) + extra, dtype=torch.uint8)
    fact = rf"^{len(packed)} bytes do not hold 40 integers of {bits} bits$"
    with pytest.raises(ValueError, match=fact):
        unpack(packed, bits, (5, 8))
