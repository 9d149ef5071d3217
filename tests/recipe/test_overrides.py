# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Flags win over what a recipe says."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qkit
from qkit.errors import DataError, RecipeError
from qkit.recipe import CalibratorConfig, Recipe, SchemeRule, override
from qkit.recipe.overrides import Overrides
from qkit.spec import Granularity, QuantSpec, Scheme

WEIGHT = QuantSpec(6, symmetric=True, granularity=Granularity.CHANNEL)
FULL = Scheme(WEIGHT, QuantSpec(6), QuantSpec(6))
RECIPE = Recipe(
    rules=(
        SchemeRule("a", scheme=FULL),
        SchemeRule("b", scheme=Scheme()),
        SchemeRule("c", scheme=Scheme(weight=WEIGHT)),
        SchemeRule("d", scheme=Scheme(input=QuantSpec(6), attention=QuantSpec(6))),
    ),
    calibrator=CalibratorConfig("mse", {"steps": 8, "least_weight": 0.3}),
)
bits = st.none() | st.integers(2, 8)


def bits_of(recipe):
    rule = recipe.rules[0].scheme
    return rule.weight.bits, rule.input.bits, rule.attention.bits


def first(*given):
    return next(value for value in given if value is not None)


def test_no_flags_change_nothing():
    assert override(RECIPE, Overrides()) == RECIPE


@settings(deadline=None, max_examples=100)
@given(both=bits, weight=bits, act=bits, attn=bits)
def test_bits_set_weights_and_inputs_and_the_narrower_flags_win(both, weight, act, attn):
    flags = Overrides(bits=both, weight_bits=weight, act_bits=act, attn_bits=attn)
    assert bits_of(override(RECIPE, flags)) == (
        first(weight, both, 6),
        first(act, both, 6),
        first(attn, 6),
    )


def test_bits_leave_attention_alone():
    assert bits_of(override(RECIPE, Overrides(bits=4))) == (4, 4, 6)


def test_float_operands_stay_in_float():
    flags = Overrides(bits=4, attn_bits=3, act_granularity="token")
    a, b, c, d = (rule.scheme for rule in override(RECIPE, flags).rules)
    token = QuantSpec(4, granularity=Granularity.TOKEN)
    assert a == Scheme(replace(WEIGHT, bits=4), token, QuantSpec(3))
    assert b == Scheme()
    assert c == Scheme(weight=replace(WEIGHT, bits=4))
    assert d == Scheme(input=token, attention=QuantSpec(3))


def test_patterns_kinds_and_towers_stay():
    rule = SchemeRule("re:.*", "linear", "text", FULL)
    (changed,) = override(Recipe(rules=(rule,)), Overrides(bits=2)).rules
    assert (changed.match, changed.kind, changed.tower) == ("re:.*", "linear", "text")


@pytest.mark.parametrize("name", ["tensor", "channel", "token"])
def test_granularity_is_that_of_inputs_only(name):
    scheme = override(RECIPE, Overrides(act_granularity=name)).rules[0].scheme
    assert scheme == replace(FULL, input=QuantSpec(6, granularity=Granularity(name)))


def test_unknown_granularity():
    fact = r"unknown granularity 'tokens'. Did you mean 'token'\? Known: tensor, channel, token"
    with pytest.raises(RecipeError, match=fact):
        override(RECIPE, Overrides(act_granularity="tokens"))


@pytest.mark.parametrize("flag", ["bits", "weight_bits", "act_bits", "attn_bits"])
@pytest.mark.parametrize("value", [0, 1, 9])
def test_impossible_bits(flag, value):
    with pytest.raises(RecipeError, match=rf"bits = {value} is not possible. .* from 2 to 8"):
        override(RECIPE, Overrides(**{flag: value}))


@pytest.mark.parametrize("flag", ["samples", "batch_size", "seed"])
def test_amounts_replace_the_recipe_s(flag):
    changed = override(RECIPE, Overrides(**{flag: 7}))
    assert changed == replace(RECIPE, **{flag: 7})


def test_seed_zero_is_a_value():
    assert override(replace(RECIPE, seed=5), Overrides(seed=0)).seed == 0


@pytest.mark.parametrize(
    ("flags", "method", "options"),
    [
        (Overrides(method="mse"), "mse", {"steps": 8, "least_weight": 0.3}),
        (Overrides(options={"steps": 4}), "mse", {"steps": 4, "least_weight": 0.3}),
        (Overrides(method="mse", options={"x": 1}), "mse", {**RECIPE.calibrator.options, "x": 1}),
        (Overrides(method="minmax"), "minmax", {}),
        (Overrides(method="percentile", options={"percentile": 99.995}), "percentile", None),
    ],
)
def test_another_method_drops_the_options_the_same_keeps_them(flags, method, options):
    expected = dict(flags.options) if options is None else options
    assert override(RECIPE, flags).calibrator == CalibratorConfig(method, expected)


def test_the_recipe_given_is_not_changed():
    override(RECIPE, Overrides(bits=2, options={"steps": 99}))
    assert bits_of(RECIPE) == (6, 6, 6)
    assert RECIPE.calibrator.options == {"steps": 8, "least_weight": 0.3}


@pytest.mark.parametrize("value", [0, 1, 9])
def test_calibrate_refuses_impossible_bits(tiny, shapes, value):
    with pytest.raises(RecipeError, match=rf"bits = {value} is not possible"):
        qkit.calibrate(tiny, f"images:{shapes}/images", bits=value)


@pytest.mark.parametrize(
    ("flag", "value", "fact"),
    [
        ("samples", 0, "cannot draw 0 samples. Ask for 1 or more"),
        ("batch_size", 0, "batch size = 0 is not possible. Use 1 or more"),
        ("seed", -1, "cannot draw with seed -1. Use 0 or more"),
    ],
)
def test_calibrate_refuses_impossible_amounts(tiny, shapes, flag, value, fact):
    with pytest.raises(DataError, match=fact):
        qkit.calibrate(tiny, f"images:{shapes}/images", overrides=Overrides(**{flag: value}))
