# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A recipe survives the way through a run folder's JSON and through TOML."""

import json
import string
import tomllib
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from qkit.recipe import CalibratorConfig, Recipe, SchemeRule, parse_recipe
from qkit.recipe.reading import GRIDS
from qkit.recipe.writing import to_toml
from qkit.spec import KINDS, TOWERS, Granularity, GridKind, QuantSpec, Scheme

words = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=8)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20)
PATTERNS = ["*", "visual.*", "re:.*", r"re:visual\.(conv1|proj)", "", "a[bc]?", "re:"]


def specs(*granularities, grids=()):
    """Specs of some granularities, and with some grids."""
    made = st.builds(
        QuantSpec, st.integers(2, 8), st.booleans(), st.sampled_from(list(granularities))
    )
    fixed = [grid for grid in grids if grid is not GridKind.NORMAL]
    if fixed:
        made |= st.builds(QuantSpec, st.integers(2, 8), grid=st.sampled_from(fixed))
    if GridKind.NORMAL in grids:
        token = Granularity.TOKEN in granularities
        own = Granularity.TOKEN if token else Granularity.CHANNEL
        bits, normal = st.integers(2, 6), st.just(GridKind.NORMAL)
        made |= st.builds(QuantSpec, bits, st.just(not token), st.just(own), normal)
    return st.none() | made


def whole(scheme):
    """Without attention no probabilities are rounded either."""
    return replace(scheme, probs=None) if scheme.attention is None else scheme


schemes = st.builds(
    Scheme,
    weight=specs(Granularity.TENSOR, Granularity.CHANNEL, grids=GRIDS["weight"]),
    input=specs(*Granularity, grids=GRIDS["input"]),
    attention=specs(Granularity.TENSOR, Granularity.TOKEN),
    probs=specs(Granularity.TENSOR, Granularity.TOKEN, grids=GRIDS["probs"]),
).map(whole)
rules = st.builds(
    SchemeRule,
    match=st.sampled_from(PATTERNS) | texts.filter(lambda text: not text.startswith("re:")),
    kind=st.sampled_from([None, *KINDS]),
    tower=st.sampled_from([None, *TOWERS]),
    scheme=schemes,
)
options = st.dictionaries(
    words.filter(lambda word: word != "method"),
    st.integers() | st.floats(allow_nan=False) | st.booleans() | texts,
    max_size=3,
)
recipes = st.builds(
    Recipe,
    rules=st.lists(rules, min_size=1, max_size=3).map(tuple),
    calibrator=st.builds(CalibratorConfig, words, options),
    samples=st.integers(1, 10**6),
    batch_size=st.integers(1, 4096),
    seed=st.integers(0, 2**32),
    summary=texts,
)


@settings(deadline=None, max_examples=150)
@given(recipes)
def test_parsing_the_dictionary_gives_the_recipe_back(recipe):
    assert parse_recipe(recipe.to_dict()) == recipe


@settings(deadline=None, max_examples=100)
@given(recipes)
def test_the_dictionary_is_plain_json(recipe):
    assert parse_recipe(json.loads(json.dumps(recipe.to_dict()))) == recipe


@settings(deadline=None, max_examples=150)
@given(recipes)
def test_the_file_gives_the_recipe_back(recipe):
    assert parse_recipe(tomllib.loads(to_toml(recipe))) == recipe


@settings(deadline=None, max_examples=50)
@given(rules)
def test_a_rule_ignores_exactly_if_it_quantizes_nothing(rule):
    table = rule.to_dict()
    assert rule.ignores == ("ignore" in table)
    assert rule.ignores == (rule.scheme == Scheme())
    assert ("weight" in table) != rule.ignores
    assert None not in table.values()  # TOML has no such thing


def test_an_empty_recipe_is_the_default():
    assert parse_recipe({}) == Recipe()
    assert parse_recipe(tomllib.loads("[[rule]]\n")) == Recipe()


def test_what_a_rule_does_not_say_has_its_default():
    table = {"rule": [{"weight": {"bits": 4}, "input": {"granularity": "token"}}]}
    (rule,) = parse_recipe(table).rules
    assert rule.scheme.weight == QuantSpec(4, symmetric=True, granularity=Granularity.CHANNEL)
    assert rule.scheme.input == QuantSpec(8, granularity=Granularity.TOKEN)
    assert rule.scheme.attention == QuantSpec(8)


def test_false_leaves_an_operand_in_float():
    (rule,) = parse_recipe({"rule": [{"input": False}]}).rules
    assert rule.scheme.input is None
    assert rule.scheme.weight is not None
    assert not rule.ignores
    assert parse_recipe({"rule": [{"ignore": True}]}).rules[0].ignores
    assert not parse_recipe({"rule": [{"ignore": False}]}).rules[0].ignores


def test_a_rule_names_itself_by_what_it_is_limited_to():
    assert str(SchemeRule("a.*")) == "match = 'a.*'"
    assert str(SchemeRule("*", "conv", "image")) == "match = '*', kind = 'conv', tower = 'image'"
