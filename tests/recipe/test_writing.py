# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Recipe files are written whole or not at all, and over nothing without being told to."""

import tomllib
from pathlib import Path

import pytest

from qkit.errors import RecipeError
from qkit.recipe import CalibratorConfig, Recipe, SchemeRule, list_recipes, load_recipe
from qkit.recipe.schema import StepConfig
from qkit.recipe.writing import to_toml, write_recipe

NESTED = Recipe(
    rules=(SchemeRule(r"re:a\.(0|1)\.b"), SchemeRule("it's")),
    calibrator=CalibratorConfig("mse", {"odd key": [1, 2.5, "x"], "deep": {"a": True, "b": {}}}),
    transform=StepConfig("best", {"families": ["smooth"]}),
    summary='quotes " and \\ and \x7f and \n',
)


def test_it_is_read_back_as_it_was(tmp_path):
    path = tmp_path / "mine.toml"
    write_recipe(path, NESTED)
    assert load_recipe(str(path)) == NESTED


def test_patterns_keep_their_backslashes():
    assert r"match = 're:a\.(0|1)\.b'" in to_toml(NESTED)


@pytest.mark.parametrize("info", list_recipes(), ids=lambda info: info.name)
def test_shipped_recipes_survive(info):
    recipe = load_recipe(info.name)
    assert tomllib.loads(to_toml(recipe)) == recipe.to_dict()


def test_an_existing_file_is_kept_unless_told(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("mine")
    with pytest.raises(
        RecipeError, match=r"mine\.toml exists\. Choose another --out, or pass --ov"
    ):
        write_recipe(path, NESTED)
    assert path.read_text() == "mine"
    write_recipe(path, NESTED, overwrite=True)
    assert load_recipe(str(path)) == NESTED


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("mine.json", "is no name for a recipe. Let --out end in .toml"),
        ("none/mine.toml", "its folder does not exist"),
        ("folder.toml", "it is a folder"),
    ],
)
def test_places_that_cannot_be_written(tmp_path, name, fact):
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(RecipeError, match=fact):
        write_recipe(tmp_path / name, NESTED)


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "mine.toml"
    path.write_text("mine")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RecipeError, match="No space left on device"):
        write_recipe(path, NESTED, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.toml"]
    assert path.read_text() == "mine"
