# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The whole search: what it predicts, what it measures, and the model its recipe makes."""

from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import pairwise

import pytest
import torch

import qkit
from qkit.artifact.folder import MODEL
from qkit.errors import ArtifactError, RegistryError, SearchError
from qkit.graph.layers import operand_bits
from qkit.pipeline.search import explore as exploring
from qkit.pipeline.search import search as searching
from qkit.recipe import SchemeRule
from qkit.recipe.schema import StepConfig
from tests.pipeline.search.conftest import Stopped, stop_after

CHOICES = "3/4,4/4,8/8"
UNITS = 20  # of the tiny model: 32 layers, 4 attention cores, q, k and v together


@pytest.fixture(scope="module")
def found(run):
    """The best of three choices at a mean of 4 bits."""
    return qkit.search(run, "bits=4", choices=CHOICES, samples=6)


@pytest.fixture(scope="module")
def made(found, tiny_folder, shapes, tmp_path_factory):
    """A run made by its recipe."""
    path = tmp_path_factory.mktemp("made") / "run"
    result = qkit.calibrate(
        f"local-dir:{tiny_folder}", f"captions:{shapes}/captions.csv", recipe=found.recipe
    )
    result.save(path)
    return path, result


def test_every_layer_of_the_recipe_has_the_bits_it_was_given(found, made):
    units = found.report.units
    for layer in made[1].student.layers:
        has = operand_bits(layer)
        if layer.kind == "attention":
            assert set(has.values()) == {8}
        else:
            (unit,) = (unit for unit in units if fnmatchcase(layer.name, unit.name))
            weight, given = map(int, unit.bits.split("/"))
            assert has == {"weight": weight} | ({"input": given} if unit.sees_input else {})
    assert made[1].report.coverage.weights > 0.9


def test_its_costs_are_those_of_the_run_it_makes(found, made):
    asked = found.report.asked
    size = (made[0] / MODEL).stat().st_size
    assert size <= asked.costs["size"] <= 1.01 * size
    assert asked.costs["bits"] <= 4.0


def test_switched_together_it_is_what_calibrating_anew_gives(found, made):
    """With minmax no layer's scale depends on another's bits."""
    again = qkit.search(made[0], "bits=4", choices="4/4", samples=6).report.run
    assert again.measured == pytest.approx(found.report.asked.measured, rel=1e-4)
    assert again.costs["bits"] == pytest.approx(found.report.asked.costs["bits"])
    assert again.costs["bitops"] == pytest.approx(found.report.asked.costs["bitops"])


def test_the_run_it_started_from_is_one_of_the_uniform_ones(found):
    by_name = {row.name: row for row in found.report.uniform}
    assert list(by_name) == CHOICES.split(",")
    assert found.report.run.measured == pytest.approx(by_name["4/4"].measured, rel=1e-4)
    assert found.report.run.costs["bits"] == pytest.approx(4.0)
    size = found.report.run.costs["size"]
    assert size <= by_name["4/4"].costs["size"] <= 1.01 * size


def test_more_budget_is_predicted_to_lose_less(found):
    front = found.report.front
    assert len(front) > 4
    for less, more in pairwise(front):
        assert less.costs["bits"] < more.costs["bits"]
        assert more.predicted <= less.predicted * (1 + 1e-9)
    assert sum(row.asked for row in front) == 1


def test_the_prediction_is_the_sum_over_units(found):
    report = found.report
    assert sum(u.loss[u.bits] for u in report.units) == pytest.approx(report.asked.predicted)
    for row in report.uniform:
        assert sum(u.loss[row.name] for u in report.units) == pytest.approx(row.predicted)
    same = next(row for row in report.uniform if row.costs["bits"] == 4.0)
    assert report.asked.predicted <= same.predicted


def test_several_budgets_hold_together(run, found):
    size = found.report.uniform[1].costs["size"]
    budgets = ["bits=4.5", f"size={size:.0f}B"]
    asked = qkit.search(run, budgets, choices=CHOICES, samples=6).report.asked
    assert asked.costs["size"] <= size * (1 + 1e-9)
    assert asked.costs["bits"] <= 4.5


def test_latency_comes_from_measured_times_only(run, tmp_path):
    times = tmp_path / "times.toml"
    times.write_text('"4/4" = 10\n"8/8" = 20\n')
    options = {"choices": "4/4,8/8", "samples": 6, "times": times}
    slow = qkit.search(run, "latency=1s", **options).report
    by_name = {row.name: row.costs["latency"] for row in slow.uniform}
    assert by_name["8/8"] == pytest.approx(2 * by_name["4/4"])
    between = 1.5 * by_name["4/4"]
    asked = qkit.search(run, f"latency={1e6 * between}us", **options).report.asked
    assert by_name["4/4"] < asked.costs["latency"] <= between * (1 + 1e-9)


def test_a_transform_and_a_rounding_take_part(save_run):
    path = save_run(recipe="w4a4-best-ptq", bits=None, method=None)
    found = qkit.search(path, "bits=5", choices="4/4,8/8", samples=4)
    assert (found.recipe.transform.method, found.recipe.rounding.method) == ("best", "adaround")
    assert found.report.run.measured == pytest.approx(found.report.uniform[0].measured, rel=1e-3)


@pytest.mark.parametrize("options", [{}, {"recipe": "w4a4-best-ptq", "bits": None, "method": None}])
def test_it_goes_on_after_the_trials_that_are_done(save_run, tmp_path, monkeypatch, options):
    """With points from a file, coordinates and roundings too, assignments measure the same."""
    path = save_run(**options)
    asked = {"choices": CHOICES, "samples": 6}
    whole = qkit.search(path, "bits=4", **asked)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            qkit.search(path, "bits=4", **asked, checkpoints=tmp_path)
    tried = stop_after(monkeypatch, 9)
    again = qkit.search(path, "bits=4", **asked, checkpoints=tmp_path)
    assert tried == ["8/8"]
    assert again == whole


def test_trials_serve_another_budget(run, tmp_path, monkeypatch):
    asked = {"choices": CHOICES, "samples": 6, "checkpoints": tmp_path}
    qkit.search(run, "bits=4", **asked)
    stop_after(monkeypatch, 0)
    assert qkit.search(run, "bits=6", **asked).report.budgets == ("bits=6",)
    with pytest.raises(ArtifactError, match="another model, recipe or data"):
        qkit.search(run, "bits=6", **asked | {"samples": 5})


def test_reconstruction_is_left_to_the_recipe_that_comes_out(save_run):
    steps = {"iterations": 0, "tower": 1, "samples": 4}
    learned = StepConfig("blocks", steps)
    recipe = replace(qkit.load_recipe("w4a4-mse"), reconstruction=learned)
    path, watch = save_run(recipe=recipe, bits=None, method=None), Named()
    found = qkit.search(path, "bits=5", choices="4/4,8/8", samples=4, progress=watch)
    assert found.recipe.reconstruction == learned
    assert not [name for name, *_ in watch.phases if "reconstruct" in name]


def test_nothing_of_the_run_is_changed(run, found):
    kept = {p.name: p.stat().st_mtime_ns for p in run.iterdir()}
    qkit.search(run, "bits=4", choices="4/4", samples=2)
    assert {p.name: p.stat().st_mtime_ns for p in run.iterdir()} == kept


class Named:
    def __init__(self):
        self.phases = []

    @contextmanager
    def phase(self, name, total):
        done = []
        yield lambda n, /, **_: done.append(n)
        self.phases.append((name, total, sum(done)))


def test_progress_names_the_choice(run):
    watch = Named()
    qkit.search(run, "bits=8", choices="4/4,8/8", samples=2, progress=watch)
    units = [phase for phase in watch.phases if phase[0].endswith("one unit at a time")]
    assert units == [(f"{bits}: one unit at a time", UNITS, UNITS) for bits in ("4/4", "8/8")]
    assert watch.phases[-1][0] == "measure assignments"
    assert watch.phases[-1][1] == watch.phases[-1][2]


@pytest.mark.parametrize(
    ("options", "error", "fact"),
    [
        ({"budget": "bits=2"}, SearchError, "the least possible is 4. Ask for more"),
        ({"budget": "bit=5"}, SearchError, "unknown budget"),
        ({"budget": "latency=5ms"}, SearchError, "qkit guesses no speed. Name with --times a TOML"),
        ({"choices": "4"}, SearchError, "no pair of bits"),
        ({"run": "nowhere"}, ArtifactError, "nowhere is no run folder"),
    ],
)
def test_what_cannot_be_is_refused(run, options, error, fact):
    options = {"run": run, "budget": "bits=5", "choices": "4/4", "samples": 2} | options
    with pytest.raises(error, match=fact):
        qkit.search(options.pop("run"), options.pop("budget"), **options)


def test_mistakes_are_found_before_any_work(run, monkeypatch):
    def never(*_):
        raise AssertionError

    loaded = searching.load_teacher
    monkeypatch.setattr(searching, "load_teacher", never)
    for options in ({"budget": "latency=5ms"}, {"choices": "4/4,4/4"}, {"times": "none.toml"}):
        with pytest.raises(SearchError):
            qkit.search(run, **({"budget": "bits=5"} | options))
    monkeypatch.setattr(searching, "load_teacher", loaded)
    monkeypatch.setattr(searching, "explore", never)
    for budget in ("bits=2", "bitops=1"):
        with pytest.raises(SearchError, match="cannot be met"):
            qkit.search(run, budget)
    monkeypatch.setattr(exploring.Steps, "of", lambda recipe: _refuse())
    with pytest.raises(RegistryError):
        qkit.search(run, "bits=5")


def _refuse():
    message = "no such method"
    raise RegistryError(message)


def test_a_run_in_float_has_nothing_to_give_out(save_run):
    recipe = qkit.Recipe(rules=(SchemeRule("*.sdpa"),))
    path = save_run(recipe=recipe, bits=None, method=None)
    with pytest.raises(SearchError, match="leaves every layer in float"):
        qkit.search(path, "bits=5", choices="4/4", samples=2)


def test_features_are_untouched_by_a_search(run, pixels):
    first = qkit.load(run).model.encode_image(pixels)
    qkit.search(run, "bits=8", choices="8/8", samples=2)
    assert torch.equal(first, qkit.load(run).model.encode_image(pixels))
