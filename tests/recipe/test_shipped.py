# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The recipes that come with qkit."""

import re
from pathlib import Path

import pytest

from qkit.pipeline.student import give_points, prepare
from qkit.recipe import list_recipes, load_recipe

FOLDER = Path(__file__).resolve().parents[2] / "recipes"
FILES = sorted(FOLDER.glob("*.toml"), key=lambda path: path.stem)
NAME = re.compile(r"w(\d)a(\d)-(minmax|percentile|mse|entropy)(-token)?")
READY = re.compile(r"w(\d)a(\d)-(fast|best-ptq|best)")
STEPS = {  # transform, rounding and reconstruction
    "fast": ("rotate", None, None),
    "best-ptq": ("best", "adaround", None),
    "best": ("best", "adaround", "blocks"),
}
NAMES = [
    *(f"{bits}-{kind}" for bits in ("w8a8", "w6a6", "w4a8", "w4a4") for kind in STEPS),
    "w4a4-entropy-token",
    "w4a4-entropy-token-learned",
    "w4a4-mixed",
    "w4a4-mse",
    "w4a4-mse-token",
    "w4a8-mixed",
    "w4a8-mse",
    "w6a6-mse",
    "w8a8-minmax",
    "w8a8-mse",
    "w8a8-percentile",
]


def own_recipes():
    return [info for info in list_recipes() if info.path.resolve().parent == FOLDER]


def test_the_promised_recipes_are_there():
    assert set(NAMES) <= {path.stem for path in FILES}


def test_every_file_is_listed_once_and_nothing_else():
    infos = own_recipes()
    assert [info.path.resolve() for info in infos] == FILES
    assert [info.name for info in infos] == [path.stem for path in FILES]
    assert {info.distribution for info in infos} == {"qkit-clip"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_recipe_parses_by_name_and_by_file_and_says_what_it_is(path):
    recipe = load_recipe(path.stem)
    assert recipe == load_recipe(str(path))
    assert recipe.summary.endswith(".")
    assert "\n" not in recipe.summary
    assert len(recipe.summary) <= 100


@pytest.mark.parametrize("name", [path.stem for path in FILES if NAME.fullmatch(path.stem)])
def test_the_name_says_bits_method_and_granularity(name):
    weight_bits, act_bits, method, token = NAME.fullmatch(name).groups()
    recipe = load_recipe(name)
    assert recipe.calibrator.method == method
    assert recipe.samples == 128
    *exceptions, rest = recipe.rules
    assert rest.match == "*"
    assert str(rest.scheme.input).endswith(f"per {'token' if token else 'tensor'}")
    for rule in (*exceptions, rest):
        assert str(rule.scheme.weight) == f"int{weight_bits} symmetric per channel"
        assert str(rule.scheme.input).startswith(f"int{act_bits} affine per ")
        assert str(rule.scheme.attention) == "int8 affine per tensor"


@pytest.mark.parametrize("name", [path.stem for path in FILES if READY.fullmatch(path.stem)])
def test_ready_recipes_differ_in_bits_and_steps_only(name):
    weight_bits, act_bits, kind = READY.fullmatch(name).groups()
    recipe = load_recipe(name)
    steps = (recipe.transform, recipe.rounding, recipe.reconstruction)
    assert tuple(step and step.method for step in steps) == STEPS[kind]
    (rule,) = recipe.rules
    kind = "normal" if weight_bits == "4" else "symmetric"
    assert str(rule.scheme.weight) == f"int{weight_bits} {kind} per channel"
    grid = "affine" if act_bits == "8" else "normal"
    assert str(rule.scheme.input) == f"int{act_bits} {grid} per token"
    assert str(rule.scheme.probs) == "int8 affine per token"
    assert str(rule.scheme.attention) == "int8 affine per tensor"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_recipe_fits_a_clip_model_and_covers_it(path, tiny):
    coverage = give_points(prepare(tiny), load_recipe(path.stem))
    assert coverage.weights > 0.99
    assert coverage.macs == 1.0
