# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Recipes by name, from any installed package that offers some."""

import importlib
from importlib.metadata import EntryPoint

import pytest

from qkit.errors import RecipeError, RegistryError
from qkit.recipe import library, list_recipes, load_recipe

TOML = 'summary = "mine"\n[calibrator]\nmethod = "minmax"\n'


class Dist:
    """As much of a distribution as an entry point needs."""

    def __init__(self, name):
        self.name = name


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """Make packages with recipes importable and the only ones on offer."""
    entries = []

    def add(distribution, package, *names):
        folder = tmp_path / package
        folder.mkdir()
        (folder / "__init__.py").touch()
        for name in names:
            (folder / f"{name}.toml").write_text(TOML)
        declare(distribution, package)
        return folder

    def declare(distribution, value):
        entry = EntryPoint(distribution, value, library.GROUP)
        entries.append(entry._for(Dist(distribution)))

    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.setattr(library, "entry_points", lambda *, group: entries)
    add.declare = declare
    return add


def test_recipes_of_all_packages_are_listed_by_name(offer):
    first = offer("dist-one", "one_recipes", "b", "a")
    second = offer("dist-two", "two_recipes", "c")
    assert [(i.name, i.path, i.distribution) for i in list_recipes()] == [
        ("a", first / "a.toml", "dist-one"),
        ("b", first / "b.toml", "dist-one"),
        ("c", second / "c.toml", "dist-two"),
    ]


def test_a_third_party_recipe_loads_by_name(offer):
    offer("dist-one", "one_recipes", "fast")
    assert load_recipe("fast").calibrator.method == "minmax"
    assert load_recipe("fast").summary == "mine"


def test_files_that_are_no_recipes_are_not_listed(offer):
    folder = offer("dist-one", "one_recipes", "a")
    (folder / "notes.txt").write_text("x")
    assert [info.name for info in list_recipes()] == ["a"]


def test_two_packages_offer_one_name(offer):
    offer("dist-one", "one_recipes", "fast", "slow")
    offer("dist-two", "two_recipes", "fast")
    fact = r"recipe 'fast' is offered by dist-one and dist-two\. Uninstall one, or pass the file's"
    with pytest.raises(RegistryError, match=fact):
        list_recipes()
    with pytest.raises(RegistryError, match=fact):
        load_recipe("slow")


def test_a_clash_does_not_keep_a_file_from_loading(offer):
    folder = offer("dist-one", "one_recipes", "fast")
    offer("dist-two", "two_recipes", "fast")
    assert load_recipe(str(folder / "fast.toml")).summary == "mine"


def test_one_package_seen_twice_is_no_clash(offer):
    offer("dist-one", "one_recipes", "fast")
    offer.declare("dist-one", "one_recipes")
    assert [info.name for info in list_recipes()] == ["fast"]


@pytest.mark.parametrize("value", ["no_such_package", "no_such_package.recipes", "tomllib._re"])
def test_package_that_cannot_be_found(offer, value):
    offer.declare("broken-dist", value)
    fact = rf"recipe package '{value}' of broken-dist cannot be found\. Reinstall or uninstall brok"
    with pytest.raises(RegistryError, match=fact):
        list_recipes()


def test_unknown_name_has_the_nearest_and_all(offer):
    offer("dist-one", "one_recipes", "w4a8-mse", "w8a8-mse")
    fact = r"unknown recipe 'w4a8_mse'. Did you mean 'w4a8-mse'\? Known: w4a8-mse, w8a8-mse\."
    with pytest.raises(RecipeError, match=fact):
        load_recipe("w4a8_mse")


def test_unknown_name_where_there_are_none(offer):
    with pytest.raises(RecipeError, match=r"unknown recipe 'fast'. Known: \(none\)\."):
        load_recipe("fast")


def test_a_slash_or_suffix_makes_it_a_file(tmp_path, monkeypatch, offer):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(TOML)
    (tmp_path / "plain").write_text(TOML)
    assert load_recipe("mine.toml") == load_recipe("./plain")
    with pytest.raises(RecipeError, match="unknown recipe 'plain'"):
        load_recipe("plain")
