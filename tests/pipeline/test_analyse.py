# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Analyses of a stored run: measured once, kept in its report, continued after an interruption."""

import errno
import json
import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest

import qkit
from qkit.artifact import folder
from qkit.errors import ArtifactError, DataError
from qkit.pipeline import analyse as analysis
from qkit.pipeline.analyse import PARTS, Wanted, analyse
from qkit.pipeline.sensitivity import KEPT_EVERY
from qkit.report.model import ModelReport

FEW = Wanted(samples=3)
SPACE, PARTLY, EACH = (replace(FEW, **{n: True}) for n in ("space", "parts", "sensitivity"))
LAYERS = 32


@pytest.fixture(scope="module")
def saved(save_run, shapes):
    """A run of the tiny model, evaluated, not analysed yet."""
    return save_run(evaluate=[f"classes:{shapes}/classes"])


@pytest.fixture
def run(saved, tmp_path):
    """A copy of that run to write to."""
    return shutil.copytree(saved, tmp_path / "run")


@pytest.fixture
def no_model(monkeypatch):
    """From here on no model can be loaded, so nothing can be measured."""

    def refuse(*_):
        message = "something was measured"
        raise AssertionError(message)

    return lambda: monkeypatch.setattr(analysis, "load_teacher", refuse)


class Counting:
    """Counts the steps of every phase; a Ctrl-C comes with the step ``stop`` of sensitivity."""

    def __init__(self, stop=None):
        self.stop = stop
        self.steps = {}

    @contextmanager
    def phase(self, name, total):
        self.steps[name] = 0

        def advance(done, /, **figures):
            self.steps[name] += done
            if name == "one layer at a time" and self.steps[name] == self.stop:
                raise KeyboardInterrupt

        yield advance


def stored(run):
    content = json.loads((run / "report.json").read_text())
    return ModelReport.from_dict(content).analyses


def test_parts_are_kept_beside_the_rest_of_the_report(run, saved, shapes):
    report = analyse(run, PARTLY)
    parts = report.analyses.parts
    assert list(parts.spaces) == list(PARTS)
    assert (parts.data, parts.pairs) == (f"captions:{shapes}/captions.csv", 3)
    assert stored(run) == report.analyses
    assert qkit.load(run).report == report
    assert replace(report, analyses=qkit.load(saved).report.analyses) == qkit.load(saved).report
    assert {p.name for p in run.iterdir()} == {p.name for p in saved.iterdir()}


def test_the_analyses_agree_on_the_whole_model(run):
    analyses = analyse(run, replace(FEW, parts=True, space=True, sensitivity=True)).analyses
    (name,) = analyses.spaces
    assert name == f"{analyses.parts.data} (first 3 pairs)"
    assert analyses.spaces[name] == analyses.parts.spaces["all"] == analyses.sensitivity.whole
    layers = [layer.name for layer in qkit.load(run).layers]
    assert [entry.name for entry in analyses.sensitivity.layers] == layers
    assert analyses.sensitivity.digest == analyses.parts.digest


@pytest.mark.parametrize("wanted", [SPACE, PARTLY, EACH])
def test_the_second_time_nothing_is_measured(run, no_model, wanted):
    first = analyse(run, wanted)
    written = (run / "report.json").read_bytes()
    no_model()
    assert analyse(run, wanted) == first
    assert (run / "report.json").read_bytes() == written
    with pytest.raises(AssertionError, match="was measured"):
        analyse(run, replace(wanted, refresh=True))
    assert (run / "report.json").read_bytes() == written


def test_refresh_measures_what_is_asked_for_and_keeps_the_rest(run):
    first = analyse(run, replace(SPACE, parts=True)).analyses
    counting = Counting()
    again = analyse(run, replace(PARTLY, refresh=True), counting).analyses
    assert counting.steps["one part at a time"] == len(PARTS)
    assert again == first
    counting = Counting()
    assert analyse(run, replace(SPACE, refresh=True), counting).analyses == first
    assert "encode pairs" in counting.steps
    assert "one part at a time" not in counting.steps


def test_other_samples_are_measured_anew(run):
    three, five = (analyse(run, replace(PARTLY, samples=n)).analyses.parts for n in (3, 5))
    assert (three.pairs, five.pairs) == (3, 5)
    assert three.digest != five.digest
    assert three.spaces["all"] != five.spaces["all"]
    assert len(analyse(run, SPACE).analyses.spaces) == 1
    assert len(analyse(run, replace(SPACE, samples=5)).analyses.spaces) == 2


@pytest.mark.parametrize("after", [KEPT_EVERY - 2, KEPT_EVERY + 3, 3 * KEPT_EVERY + 5, LAYERS])
def test_an_interruption_keeps_what_was_found(saved, run, tmp_path, after):
    whole = analyse(shutil.copytree(saved, tmp_path / "other"), EACH).analyses.sensitivity
    with pytest.raises(KeyboardInterrupt):
        analyse(run, EACH, Counting(stop=after))
    before = stored(run).sensitivity
    assert before == replace(whole, layers=whole.layers[:after])
    counting = Counting()
    assert analyse(run, EACH, counting).analyses.sensitivity == whole
    assert counting.steps.get("one layer at a time", 0) == LAYERS - after
    assert stored(run).sensitivity == whole


def test_what_was_begun_on_other_samples_is_not_mixed_in(run):
    with pytest.raises(KeyboardInterrupt):
        analyse(run, EACH, Counting(stop=2 * KEPT_EVERY))
    counting = Counting()
    found = analyse(run, replace(EACH, samples=4), counting).analyses.sensitivity
    assert counting.steps["one layer at a time"] == LAYERS == len(found.layers)
    assert found.pairs == 4


def test_a_space_of_named_data_is_the_one_of_the_evaluation(run, shapes):
    source = f"classes:{shapes}/classes"
    found = analyse(run, replace(SPACE, data=source)).analyses.spaces
    assert found == {source: qkit.load(run).report.metrics[0].space}
    assert found[source].ece_float is not None


def test_images_without_texts_cannot_give_a_space_but_parts(run, shapes):
    images = f"images:{shapes}/images"
    with pytest.raises(DataError, match="neither labels nor captions"):
        analyse(run, replace(SPACE, data=images))
    assert analyse(run, replace(PARTLY, data=images)).analyses.parts.data == images


def test_nothing_wanted_reads_and_writes_nothing_else(run, no_model):
    no_model()
    written = (run / "report.json").stat().st_mtime_ns
    assert analyse(run, Wanted()) == qkit.load(run).report
    assert (run / "report.json").stat().st_mtime_ns == written


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EROFS, "Read-only disk")])
def test_a_report_that_cannot_be_written_stays_as_it_was(run, monkeypatch, error):
    written = (run / "report.json").read_bytes()

    def fail(path, content):
        path.write_text("{")
        raise error

    monkeypatch.setattr(folder, "write_json", fail)
    with pytest.raises((ArtifactError, KeyboardInterrupt), match=r"Read-only disk|^$"):
        analyse(run, PARTLY)
    assert (run / "report.json").read_bytes() == written
    assert not list(run.glob(".*"))


def test_missing_runs_and_missing_data(run, tmp_path, shapes):
    with pytest.raises(ArtifactError, match="is no run folder"):
        analyse(tmp_path / "none", SPACE)
    with pytest.raises(DataError, match="does not exist"):
        analyse(run, replace(PARTLY, data=f"classes:{shapes}/nowhere"))
