# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A grid as a normal distribution wants it, one scale a token."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qkit.errors import RecipeError
from qkit.grids.normal import normal_levels
from qkit.grids.tokens import token_grid
from qkit.nn.tensor_quantizer import Mode, TensorQuantizer
from qkit.numerics import make_grid, token_qparams
from qkit.recipe import override, parse_recipe
from qkit.recipe.overrides import Overrides
from qkit.spec import Granularity, GridKind, PointId, QuantSpec
from qkit.transform import Transform

# least squared error of 2^bits levels for N(0, 1), Max (1960), table I
CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)
REACH = {2: 1.510, 3: 2.152, 4: 2.733, 5: 3.263}  # of the outermost level, ibidem
MAX_1960 = {2: 0.1175, 3: 0.03454, 4: 0.009497, 5: 0.002499}


def spec(bits=4):
    return QuantSpec(bits, granularity=Granularity.TOKEN, grid=GridKind.NORMAL)


def sqnr(z, rounded):
    return 10 * float(torch.log10(z.square().sum() / (z - rounded).square().sum()))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_levels_are_different_whole_numbers_of_8_bits_that_mirror_each_other(bits):
    levels = normal_levels(bits)
    assert len(set(levels)) == 1 << bits
    assert list(levels) == sorted(levels)
    assert levels == tuple(-level for level in reversed(levels))
    assert levels[-1] == 127


@pytest.mark.parametrize("bits", sorted(MAX_1960))
def test_the_error_is_the_least_that_is_known(bits):
    z = torch.randn(64, 4096, generator=torch.Generator().manual_seed(0))
    ends = z.abs().amax(-1, keepdim=True)
    clip = REACH[bits] / float(ends.mean())
    rounded = token_grid(z, spec(bits), clip).round(z)
    error = float((z - rounded).square().mean())
    assert MAX_1960[bits] * 0.98 < error < MAX_1960[bits] * 1.06


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_normal_values_are_rounded_better_than_on_any_uniform_grid(bits):
    z = torch.randn(256, 768, generator=torch.Generator().manual_seed(1))
    even = QuantSpec(bits, granularity=Granularity.TOKEN)
    grids = {
        "own": [token_grid(z, spec(bits), clip) for clip in CLIPS],
        "even": [make_grid(token_qparams(z, even, clip), even) for clip in CLIPS],
    }
    best = {name: max(sqnr(z, grid.round(z)) for grid in made) for name, made in grids.items()}
    assert best["own"] > best["even"] + 0.5


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 6), st.floats(1e-3, 1e3), st.integers(0, 999))
def test_every_value_goes_to_the_nearest_level_of_its_token(bits, size, seed):
    z = size * torch.randn(3, 16, generator=torch.Generator().manual_seed(seed))
    grid = token_grid(z, spec(bits), 0.9)
    values = grid.levels * grid.scale  # (3, codes)
    off = (z[..., None] - values[:, None, :]).abs()
    rounded = grid.round(z)
    torch.testing.assert_close((rounded - z).abs(), off.amin(-1), rtol=1e-4, atol=1e-6 * size)


def test_in_integers_the_product_is_that_of_int8_operands(normal):
    z, weight = normal(5, 16), torch.randint(-8, 8, (7, 16))
    grid = token_grid(z, spec(), 1.0)
    whole = grid.levels[grid.codes(z)].to(torch.int8)
    product = (whole.int() @ weight.T.int()).float() * grid.scale
    torch.testing.assert_close(grid.round(z) @ weight.T.float(), product)


def test_the_gradient_passes_straight_through_between_the_ends(normal):
    z = normal(4, 16).requires_grad_()
    grid = token_grid(z, spec(), 0.5)
    grid.round(z).sum().backward()
    inside = z.detach().abs() <= 127 * grid.scale
    assert torch.equal(z.grad, inside.float())
    assert 0 < float(inside.float().mean()) < 1


def test_tokens_of_zeros_stay_zero():
    z = torch.zeros(2, 8)
    found = token_grid(z, spec(), 1.0).round(z)
    assert float(found.abs().max()) < 1e-4


def test_a_point_rounds_with_the_clip_of_its_coordinates(normal):
    point, x = TensorQuantizer(PointId("layer", "input"), spec(), axis=-1), normal(4, 16)
    point.set_mode(Mode.QUANTIZE)
    assert torch.equal(point(x), token_grid(x, spec(), 1.0).round(x))
    point.set_transform(Transform(clip=0.8))
    assert torch.equal(point(x), token_grid(x, spec(), 0.8).round(x))
    assert torch.equal(point.positions(x), token_grid(x, spec(), 0.8).codes(x).float())


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        (
            {"granularity": Granularity.TENSOR},
            r"'normal' is its own mirror image, so symmetric = f",
        ),
        ({"bits": 7}, r"'normal' has up to 6 bits, not 7\. Use grid = 'uniform'"),
    ],
)
def test_what_it_cannot_be(changes, fact):
    given = {"bits": 4, "granularity": Granularity.TOKEN, "grid": GridKind.NORMAL} | changes
    with pytest.raises(RecipeError, match=fact):
        QuantSpec(**given)


def test_at_more_bits_than_it_has_an_input_is_uniform():
    table = {"rule": [{"input": {"bits": 4, "granularity": "token", "grid": "normal"}}]}
    recipe = parse_recipe(table)
    found = [override(recipe, Overrides(act_bits=bits)).rules[0].scheme.input for bits in (6, 8)]
    assert [one.grid for one in found] == [GridKind.NORMAL, GridKind.UNIFORM]
    assert [one.bits for one in found] == [6, 8]


@pytest.mark.parametrize(
    ("rule", "fact"),
    [
        ({"attention": {"granularity": "token"}}, "made for weight, input, not for attention"),
        ({"probs": {"granularity": "token"}}, "made for weight, input, not for probs"),
        ({"input": {"symmetric": True}}, "has a scale a token, so granularity 'tensor' is not"),
        ({"weight": {"granularity": "token"}}, "granularity 'token' is not possible for weight"),
        ({"weight": {"symmetric": False}}, "is its own mirror image"),
    ],
)
def test_only_weights_have_it_and_inputs_per_token(rule, fact):
    [(role, table)] = rule.items()
    with pytest.raises(RecipeError, match=fact):
        parse_recipe({"rule": [{role: {"bits": 4, "grid": "normal", **table}}]})
