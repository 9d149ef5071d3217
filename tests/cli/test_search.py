# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``qkit search``: from a run folder to a table and a recipe that ``qkit calibrate`` takes."""

import json
import re

import pytest

from qkit.errors import SearchError
from qkit.pipeline.search import explore, trial
from qkit.recipe import load_recipe
from tests.cli.conftest import one_line_error

QUICK = ("--choices=4/8,8/8", "--samples=4")


def test_from_a_run_to_a_calibrated_model(qkit, run, calibrate_args, tmp_path):
    done = qkit("search", run, "--budget=bits=6", *QUICK)
    assert done.exit_code == 0, done.output
    asked = next(line for line in done.stdout.splitlines() if line.startswith("→"))
    assert re.match(r"→ bits=6 +[456]\.\d\d ", asked)
    assert "all layers alike" in done.stdout
    assert "4/8: one unit at a time" in done.stderr
    said = " ".join(done.stderr.split())
    assert f"written to {run}/search.toml; try: qkit calibrate --recipe {run}/search.toml" in said
    made = qkit(*calibrate_args, f"--recipe={run}/search.toml", "--json")
    assert made.exit_code == 0, made.output
    layers = [x for x in json.loads(made.stdout)["layers"] if x["kind"] != "attention"]
    weights = sum(layer["weights"] for layer in layers)
    mean = sum(layer["weights"] * layer["weight_bits"] for layer in layers) / weights
    assert f"{mean:.2f}" == asked.split()[2]
    assert {layer["weight_bits"] for layer in layers} == {4, 8}


def test_json_holds_every_loss(qkit, run, tmp_path):
    out = tmp_path / "mine.toml"
    done = qkit("search", run, "-b", "size=5MB", *QUICK, f"--out={out}", "--json")
    report = json.loads(done.stdout)
    assert [unit["loss"].keys() for unit in report["units"]] == [{"4/8": 0, "8/8": 0}.keys()] * 20
    assert report["budgets"] == ["size=5MB"]
    assert load_recipe(str(out)).summary == "Mixed precision, size=5MB: qkit search, 4 pairs."
    assert not (run / "search.toml").exists()


def test_a_recipe_is_not_overwritten_unasked(qkit, run):
    (run / "search.toml").write_text("mine")
    one_line_error(qkit("search", run, "-b", "bits=6", *QUICK), "search.toml exists", "--overwrite")
    assert (run / "search.toml").read_text() == "mine"
    assert qkit("search", run, "-b", "bits=6", *QUICK, "--overwrite").exit_code == 0
    assert (run / "search.toml").read_text() != "mine"


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["-b", "bit=5"], ["unknown budget 'bit=5'", "Did you mean 'bits'?"]),
        (["-b", "bits=five"], ["no amount that can be read", "bits=5"]),
        (["-b", "bits=3", *QUICK], ["budget bits=3 cannot be met", "least possible is 4"]),
        (["-b", "latency=5ms"], ["qkit guesses no speed", "--times", "nanoseconds per million"]),
        (["-b", "bits=5", "--times=no.toml"], ["no.toml cannot be read"]),
        (["-b", "bits=5", "--choices=4x8"], ["choice '4x8' is no pair of bits"]),
        (["-b", "bits=5", "--choices=4/8,4/9"], ["choice '4/9' is no pair of bits"]),
        (["-b", "bits=5", "--out=a.json"], ["a.json is no name for a recipe", ".toml"]),
        (["-b", "bits=5", "--data=nowhere:x"], ["nowhere"]),
        (["-b", "bits=5", "--model=demo", *QUICK], ["demo is not the model", "--model"]),
    ],
)
def test_mistakes_are_one_line(qkit, run, flags, parts):
    result = qkit("search", run, *flags)
    one_line_error(result, *parts)
    assert result.stdout == ""
    assert not (run / "search.toml").exists()


def test_a_missing_run_and_a_missing_budget(qkit, run, tmp_path):
    one_line_error(qkit("search", tmp_path / "none", "-b", "bits=5"), "none is no run folder")
    assert qkit("search", run).exit_code == 2


def test_ctrl_c_keeps_what_was_tried(qkit, run, monkeypatch):
    """The same command goes on after it, and leaves nothing but the recipe."""
    partial, first = run / "search.toml.partial", explore.try_bits

    def interrupted(bits, *rest):
        if str(bits) == "8/8":
            raise KeyboardInterrupt
        return first(bits, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(explore, "try_bits", interrupted)
        result = qkit("search", run, "-b", "bits=6", *QUICK)
    assert result.exit_code == 130
    said = " ".join(result.stderr.split())
    assert f"kept in {partial}; the same command goes on" in said
    again = qkit("search", run, "-b", "bits=6", *QUICK)
    assert again.exit_code == 0, again.output
    assert "8/8: one unit at a time" in again.stderr
    assert "4/8: one unit at a time" not in again.stderr
    assert not partial.exists()


@pytest.mark.parametrize(
    ("stopped", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted: nothing was written."),
        (SearchError("it cannot be. Try another."), 1, "it cannot be. Try another."),
    ],
)
def test_stopped_before_anything_is_tried_it_leaves_nothing(
    qkit, run, monkeypatch, stopped, code, said
):
    def interrupted(*_):
        raise stopped

    monkeypatch.setattr(trial.Meter, "alone", interrupted)
    before = sorted(p.name for p in run.iterdir())
    result = qkit("search", run, "-b", "bits=6", *QUICK)
    assert result.exit_code == code
    assert said in result.stderr
    assert sorted(p.name for p in run.iterdir()) == before
