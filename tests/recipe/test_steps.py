# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""[transform] and [rounding]: steps that a recipe may have or leave out."""

import json
import tomllib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qkit
from qkit.calibration.registry import ROUNDINGS, TRANSFORMS
from qkit.errors import RecipeError, RegistryError
from qkit.recipe import Recipe, override, parse_recipe
from qkit.recipe.overrides import Overrides
from qkit.recipe.schema import CalibratorConfig, StepConfig
from qkit.recipe.writing import to_toml

TOML = """
[transform]
method = "best"
samples = 8

[calibrator]
method = "minmax"

[rounding]
method = "gptq"
damping = 0.05
search = false
"""
BOTH = Recipe(
    transform=StepConfig("best", {"samples": 8}),
    calibrator=CalibratorConfig("minmax"),
    rounding=StepConfig("gptq", {"damping": 0.05, "search": False}),
)
STEPS = ["transform", "rounding"]

words = st.text("abcdefgh_", min_size=1, max_size=8)
values = st.integers() | st.floats(allow_nan=False) | st.booleans() | words
steps = st.none() | st.builds(StepConfig, words, st.dictionaries(words, values, max_size=3))


def test_both_are_read():
    assert parse_recipe(tomllib.loads(TOML)) == BOTH


@settings(deadline=None, max_examples=100)
@given(steps, steps)
def test_they_survive_the_way_through_a_run_folder(transform, rounding):
    recipe = Recipe(transform=transform, rounding=rounding)
    assert parse_recipe(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_they_are_written_in_the_order_in_which_they_run():
    assert list(tomllib.loads(TOML)) == ["transform", "calibrator", "rounding"]
    table = BOTH.to_dict()
    assert table["transform"] == {"method": "best", "samples": 8}
    assert table["rounding"] == {"method": "gptq", "damping": 0.05, "search": False}


def test_a_recipe_without_them_is_what_it_was():
    recipe = parse_recipe({"calibrator": {"method": "minmax"}})
    assert recipe.transform is recipe.rounding is None
    assert set(recipe.to_dict()) == {"summary", "seed", "data", "calibrator", "rule"}


@pytest.mark.parametrize("name", STEPS)
def test_one_does_not_ask_for_the_other(name):
    recipe = parse_recipe({name: {"method": "x"}})
    assert recipe == replace(Recipe(), **{name: StepConfig("x")})
    assert set(STEPS) & set(recipe.to_dict()) == {name}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize(
    ("value", "fact"),
    [
        ({}, r", \[NAME\]: method = None is no text\. Name one, or drop \[NAME\]\."),
        ({"samples": 4}, r", \[NAME\]: method = None is no text\."),
        ({"method": 4}, r", \[NAME\]: method = 4 is no text\. Name one, or drop \[NAME\]\."),
        ({"method": ["best"]}, r", \[NAME\]: method = \['best'\] is no text\."),
        ("best", r": NAME = 'best' is no table\. Write \[NAME\]\."),
        (False, r": NAME = False is no table\. Write \[NAME\]\."),
    ],
)
def test_a_step_needs_a_name(name, value, fact):
    with pytest.raises(RecipeError, match="^mine.toml" + fact.replace("NAME", name)):
        parse_recipe({name: value}, "mine.toml")


@pytest.mark.parametrize(("key", "known"), [("transfrom", "transform"), ("roundings", "rounding")])
def test_a_misspelt_step_is_an_unknown_key(key, known):
    fact = rf"^mine.toml: unknown key '{key}'. Did you mean '{known}'\? Known: .*transform, calib"
    with pytest.raises(RecipeError, match=fact):
        parse_recipe({key: {"method": "best"}}, "mine.toml")


@pytest.mark.parametrize("flags", [{"bits": 4}, {"method": "mse"}, {"options": {"x": 1}}])
def test_flags_leave_the_steps_alone(flags):
    changed = override(BOTH, Overrides(**flags))
    assert changed != BOTH
    assert (changed.transform, changed.rounding) == (BOTH.transform, BOTH.rounding)


@pytest.mark.parametrize(
    ("registry", "name", "options", "fact"),
    [
        (TRANSFORMS, "bset", {}, r"unknown transform 'bset'. Did you mean 'best'\? Known: balance"),
        (ROUNDINGS, "gptk", {}, r"unknown rounding 'gptk'. Did you mean 'gptq'\? Known: .*gptq"),
        (ROUNDINGS, "zzzz", {}, r"unknown rounding 'zzzz'. Known: .*gptq"),
        (TRANSFORMS, "gptq", {}, r"unknown transform 'gptq'"),
        (
            TRANSFORMS,
            "best",
            {"sample": 4},
            r"transform 'best' has no option 'sample'. Did you mean 'samples'\? It has: samples, r",
        ),
        (
            ROUNDINGS,
            "gptq",
            {"dampen": 1},
            r"rounding 'gptq' has no option 'dampen'. Did you mean 'damping'\? It has: samples, d",
        ),
        (TRANSFORMS, "best", {"rows": 0}, r"transform 'best' refuses its options: rows = 0 is not"),
    ],
)
def test_names_and_options_that_lead_nowhere(registry, name, options, fact):
    with pytest.raises(RegistryError, match=f"^{fact}"):
        registry.create(name, options)


@pytest.mark.parametrize("name", STEPS)
def test_an_unknown_step_is_refused_before_anything_is_read(name):
    recipe = parse_recipe({name: {"method": "beast"}})
    with pytest.raises(RegistryError, match=f"^unknown {name} 'beast'"):
        qkit.calibrate("no such model", "no such data", recipe=recipe)


def test_a_recipe_says_how_to_fine_tune_what_it_makes():
    table = {"epochs": 20, "prompt": {"rate": 0.5}, "adapter": {"bits": 4}}
    recipe = replace(BOTH, p4q=table)
    assert parse_recipe(tomllib.loads(TOML) | {"p4q": table}) == recipe
    assert parse_recipe(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert parse_recipe(tomllib.loads(to_toml(recipe))) == recipe
    assert override(recipe, Overrides(bits=4)).p4q == table
    with pytest.raises(RecipeError, match=r"p4q = 4 is no table. Write \[p4q\]"):
        parse_recipe({"p4q": 4})


def test_a_recipe_says_how_to_search_for_bits():
    table = {"budget": ["bits=4", "size=9MB"], "rounding": False}
    recipe = replace(BOTH, search=table)
    assert parse_recipe(tomllib.loads(to_toml(recipe))) == recipe
    assert parse_recipe(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert override(recipe, Overrides(samples=4)).search == table
    with pytest.raises(RecipeError, match=r"search = 4 is no table. Write \[search\]"):
        parse_recipe({"search": 4})
    for flags in (Overrides(bits=4), Overrides(weight_bits=4), Overrides(act_bits=4)):
        with pytest.raises(RecipeError, match="the recipe searches for those of each layer"):
            override(recipe, flags)
