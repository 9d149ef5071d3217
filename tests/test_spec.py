# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
import pytest

from qkit.errors import RecipeError
from qkit.spec import Granularity, PointId, QuantSpec


@pytest.mark.parametrize("bits", range(2, 9))
def test_bounds_are_those_of_two_s_complement_and_of_unsigned_integers(bits):
    signed, unsigned = QuantSpec(bits, symmetric=True), QuantSpec(bits)
    assert (signed.quant_min, signed.quant_max) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert (unsigned.quant_min, unsigned.quant_max) == (0, 2**bits - 1)


@pytest.mark.parametrize("bits", [-8, 0, 1, 9, 16, 8.0, "8", None, True])
def test_bits_out_of_reach_are_refused_with_their_value(bits):
    with pytest.raises(RecipeError) as caught:
        QuantSpec(bits)
    assert str(caught.value) == (
        f"bits = {bits!r} is not possible. Use a whole number from 2 to 8."
    )


@pytest.mark.parametrize("granularity", Granularity)
def test_granularity_is_read_by_its_name(granularity):
    assert Granularity.parse(granularity.value) is granularity


def test_unknown_granularity_names_the_nearest():
    with pytest.raises(RecipeError) as caught:
        Granularity.parse("chanel")
    assert str(caught.value) == (
        "unknown granularity 'chanel'. Did you mean 'channel'? Known: tensor, channel, token."
    )


def test_unknown_granularity_that_resembles_none_lists_all():
    with pytest.raises(RecipeError) as caught:
        Granularity.parse("xyz")
    assert str(caught.value) == "unknown granularity 'xyz'. Known: tensor, channel, token."


def test_only_per_token_scales_are_dynamic():
    dynamic = [g for g in Granularity if QuantSpec(8, granularity=g).dynamic]
    assert dynamic == [Granularity.TOKEN]


def test_specs_and_points_name_themselves():
    assert str(QuantSpec(4, True, Granularity.CHANNEL)) == "int4 symmetric per channel"
    assert str(QuantSpec(8)) == "int8 affine per tensor"
    assert str(PointId("visual.conv1", "input")) == "visual.conv1:input"
