# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The ``[search]`` of a recipe: calibrating with it is a search, then a calibration."""

from dataclasses import replace

import pytest
import torch

import qkit
from qkit.artifact.folder import read_run
from qkit.errors import ArtifactError, DataError, RecipeError, SearchError
from qkit.pipeline import calibrate as calibrating
from qkit.pipeline.search.asked import read_asked
from qkit.pipeline.teacher import stored_recipe
from qkit.recipe.writing import write_recipe
from tests.pipeline.search.conftest import Stopped, stop_after

SEARCH = {"budget": "bits=4", "choices": "3/4,4/4,8/8", "samples": 6}
START = replace(qkit.load_recipe("w4a4-mse"), samples=6)
RECIPE = replace(START, search=SEARCH)


@pytest.fixture(scope="module")
def calibrated(tiny_folder, shapes):
    """What a recipe makes of the tiny model."""

    def run(recipe, data="captions:{}/captions.csv", **options):
        source = data.format(shapes)
        return qkit.calibrate(f"local-dir:{tiny_folder}", source, recipe=recipe, **options)

    return run


@pytest.fixture(scope="module")
def made(calibrated):
    return calibrated(RECIPE)


def test_it_makes_what_a_search_and_a_calibration_make(made, calibrated, tmp_path):
    calibrated(START).save(tmp_path / "start")
    found = qkit.search(tmp_path / "start", **SEARCH)
    assert made.recipe == found.recipe
    again = calibrated(found.recipe)
    assert again.report.embedding_cosine == made.report.embedding_cosine
    assert again.report.layers == made.report.layers


def test_nothing_of_the_trials_is_left(calibrated):
    """Coordinates and weights of the last trial are gone before the recipe found is run."""
    recipe = replace(qkit.load_recipe("w4a4-mixed"), samples=6, search=SEARCH)
    first = calibrated(recipe)
    again = calibrated(first.recipe)
    found, wanted = first.model.state_dict(), again.model.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert first.report.layers == again.report.layers


def test_the_run_is_made_by_the_recipe_that_it_stores(made, tmp_path):
    made.save(tmp_path / "run")
    assert stored_recipe(read_run(tmp_path / "run")) == made.recipe
    assert made.recipe.search is None
    assert made.recipe.summary == "Mixed precision, bits=4: qkit search, 6 pairs."


def test_trials_show_their_progress_and_their_time(made):
    phases = list(made.report.timing)
    tried = [name for name in phases if name.endswith("one unit at a time")]
    assert tried == [f"{bits}: one unit at a time" for bits in SEARCH["choices"].split(",")]
    assert phases.index(tried[-1]) < phases.index("choose scales (mse)")


def test_weights_are_rounded_in_trials_only_where_that_is_asked_for(calibrated):
    recipe = replace(START, rounding=qkit.load_recipe("w4a4-best-ptq").rounding)
    named = {}
    for rounding in (True, False):
        table = SEARCH | {"rounding": rounding, "choices": "4/4"}
        found = calibrated(replace(recipe, search=table))
        assert found.recipe.rounding == recipe.rounding
        named[rounding] = [name for name in found.report.timing if "round weights" in name]
    assert named[False] == ["round weights (adaround)"]
    assert named[True] == ["4/4: round weights (adaround)", "round weights (adaround)"]


def test_a_search_goes_on_after_the_trials_that_are_done(made, calibrated, tmp_path, monkeypatch):
    folder = tmp_path / "partial"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            calibrated(RECIPE, checkpoints=folder)
    tried = stop_after(monkeypatch, 9)
    again = calibrated(RECIPE, checkpoints=folder)
    assert tried == ["8/8"]
    assert again.recipe == made.recipe
    assert again.report.layers == made.report.layers


@pytest.mark.parametrize("other", [{"seed": 1}, {"search": SEARCH | {"samples": 4}}])
def test_trials_of_another_search_are_not_used(calibrated, tmp_path, monkeypatch, other):
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stopped):
            calibrated(RECIPE, checkpoints=tmp_path)
    with pytest.raises(ArtifactError, match=r"another model, recipe or data\. Delete it"):
        calibrated(replace(RECIPE, **other), checkpoints=tmp_path)


@pytest.mark.parametrize(
    ("changes", "error", "fact"),
    [
        ({"budget": 4}, RecipeError, r"\[search\]: budget = 4 is no text"),
        ({"budget": ["bits=4", 5]}, RecipeError, "is no text. Write 'bits=4'"),
        ({"budget": []}, SearchError, r"^\[search\]: no budget is given"),
        ({"budget": "bit=4"}, SearchError, r"^\[search\]: unknown budget 'bit=4'"),
        ({"budget": "latency=5ms"}, SearchError, "qkit guesses no speed"),
        ({"choices": "4"}, SearchError, "'4' is no pair of bits"),
        ({"choices": 4}, RecipeError, "choices = 4 is no text"),
        ({"samples": 1}, RecipeError, "samples = 1 is not possible"),
        ({"rounding": 1}, RecipeError, "rounding = 1 is neither true nor false"),
        ({"pairs": 4}, RecipeError, "unknown key 'pairs'"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(calibrated, monkeypatch, changes, error, fact):
    def never(*_):
        raise AssertionError

    monkeypatch.setattr(calibrating, "load_model", never)
    with pytest.raises(error, match=fact):
        calibrated(replace(RECIPE, search=SEARCH | changes))


def test_flags_do_not_give_bits_that_are_searched(calibrated):
    with pytest.raises(RecipeError, match="bits are given, but the recipe searches"):
        calibrated(RECIPE, bits=4)


def test_what_only_the_model_or_the_data_tell(calibrated):
    with pytest.raises(SearchError, match="the least possible is 3"):
        calibrated(replace(RECIPE, search=SEARCH | {"budget": "bits=2"}))
    with pytest.raises(DataError, match="need two images and two texts"):
        calibrated(replace(RECIPE, samples=1))


def test_several_budgets_are_a_list():
    asked = read_asked(replace(START, search={"budget": ["bits=4.5", "size=3MB"]}))
    assert [str(budget) for budget in asked.budgets] == ["bits=4.5", "size=3MB"]
    assert asked.rounding


@pytest.mark.parametrize(
    ("budget", "choices"),
    [("bits=5", "3/4 4/4 5/4 6/4 8/4"), (["bits=5", "bitops=9G"], "4/4 4/8 6/6 8/8")],
)
def test_inputs_keep_their_bits_where_they_cost_nothing(budget, choices):
    asked = read_asked(replace(START, search={"budget": budget}))
    assert " ".join(map(str, asked.choices)) == choices


def test_a_recipe_of_ones_own_may_search(tmp_path, calibrated, made):
    write_recipe(tmp_path / "mine.toml", RECIPE)
    assert calibrated(str(tmp_path / "mine.toml")).recipe.rules == made.recipe.rules
