# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Grids and probabilities in recipes: what can be asked for, what is refused, and why."""

import pytest

from qkit.errors import RecipeError
from qkit.recipe import override, parse_recipe
from qkit.recipe.overrides import Overrides
from qkit.spec import Granularity, GridKind, QuantSpec

FOR_PROBS = ["log2", "log-sqrt2", "log", "twin"]
FOR_INPUTS = ["twin-signed", "shifted-log"]


def scheme(**rule):
    return parse_recipe({"rule": [rule]}, "mine.toml").rules[0].scheme


@pytest.mark.parametrize("grid", FOR_PROBS)
def test_probabilities_take_a_grid_of_their_own(grid):
    found = scheme(probs={"bits": 4, "grid": grid})
    assert found.probs == QuantSpec(4, grid=GridKind(grid))
    assert found.attention == QuantSpec(8)


@pytest.mark.parametrize("grid", FOR_INPUTS)
def test_inputs_take_the_grids_made_for_a_gelu(grid):
    assert scheme(input={"bits": 6, "grid": grid}).input == QuantSpec(6, grid=GridKind(grid))


def test_probabilities_fall_back_to_attention_whole_and_key_by_key():
    assert scheme(attention={"bits": 5}).probs is None
    found = scheme(attention={"bits": 5, "granularity": "token"}, probs={"bits": 4})
    assert found.probs == QuantSpec(4, granularity=Granularity.TOKEN)
    assert scheme(attention={"bits": 5}, probs={"grid": "log"}).probs.bits == 5


def test_uniform_is_the_default_and_may_be_said():
    assert scheme(input={"bits": 4, "grid": "uniform"}).input == QuantSpec(4)


@pytest.mark.parametrize(
    ("rule", "parts"),
    [
        (
            {"weight": {"grid": "log2"}},
            ["rule 1, weight: grid = 'log2' has no mirror image", "symmetric = true", "Drop"],
        ),
        (
            {"weight": {"grid": "log2", "symmetric": False, "granularity": "tensor"}},
            ["'log2' is made for probs, not for weight. Use one of: uniform, normal."],
        ),
        (
            {"input": {"grid": "log-sqrt2"}},
            [
                "made for probs, not for input",
                "Use one of: uniform, twin-signed, shifted-log, normal.",
            ],
        ),
        (
            {"probs": {"grid": "shifted-log"}},
            ["made for input, not for probs", "uniform, log2, log-sqrt2, log, twin."],
        ),
        ({"attention": {"grid": "log2"}}, ["made for probs, not for attention"]),
        (
            {"probs": {"grid": "log", "granularity": "token"}},
            ["probs: grid = 'log' has one scale", "granularity 'token' is not possible"],
        ),
        (
            {"input": {"grid": "twin-signed", "granularity": "channel"}},
            ["granularity 'channel' is not possible", "Use 'tensor', or grid = 'uniform'."],
        ),
        ({"probs": {"grid": "log", "symmetric": True}}, ["'log' has no mirror image"]),
        ({"probs": {"grid": "log-2"}}, ["unknown grid 'log-2'. Did you mean 'log2'?"]),
        ({"probs": {"grid": 2}}, ["unknown grid 2."]),
        ({"probs": {"granularity": "channel"}}, ["'channel' is not possible for probs"]),
        ({"probs": False}, ["all or none", "drop 'probs'"]),
        ({"attention": False, "probs": {"bits": 4}}, ["all or none", "drop 'probs'"]),
        ({"ignore": True, "probs": {"bits": 4}}, ["ignore = true contradicts probs"]),
        ({"probs": {"bits": 9}}, ["probs: bits = 9 is not possible"]),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(rule, parts):
    with pytest.raises(RecipeError) as caught:
        scheme(**rule)
    text = str(caught.value)
    assert text.startswith("mine.toml, rule 1")
    assert "\n" not in text
    for part in parts:
        assert part in text


def test_flags_set_the_bits_of_the_probabilities_too_and_keep_their_grid():
    recipe = parse_recipe({"rule": [{"probs": {"bits": 4, "grid": "log"}}]})
    (rule,) = override(recipe, Overrides(attn_bits=6)).rules
    assert rule.scheme.attention.bits == 6
    assert rule.scheme.probs == QuantSpec(6, grid=GridKind.LOG)
    assert override(recipe, Overrides(bits=3)).rules[0].scheme.probs.bits == 4


def test_a_flag_that_the_grid_does_not_allow_is_refused():
    recipe = parse_recipe({"rule": [{"input": {"grid": "shifted-log"}}]})
    with pytest.raises(RecipeError, match="granularity 'token' is not possible"):
        override(recipe, Overrides(act_granularity="token"))


def test_specs_name_their_grid():
    assert str(QuantSpec(4, grid=GridKind.LOG_SQRT2)) == "int4 log-sqrt2 per tensor"
