# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``qkit report --sensitivity``, ``--parts`` and ``--space``: asked for, shown and kept."""

import csv
import io
import json
import re
import shutil

import pytest

from qkit.cli import report as command
from qkit.pipeline import analyse as analysis
from qkit.pipeline.analyse import PARTS
from tests.cli.conftest import one_line_error

ALL = ("--sensitivity", "--parts", "--space", "--samples=3")


@pytest.fixture
def stored(run):
    return lambda: json.loads((run / "report.json").read_text())


def short(name):
    return re.sub(r"^.*resblocks\.\d+\.", "", name)


def by_kl(report):
    layers = report["analyses"]["sensitivity"]["layers"]
    return sorted(layers, key=lambda entry: -entry["alone"]["logit_kl"])


def test_sensitivity_shows_the_layers_that_cost_most(show, stored):
    text = " ".join(show("--sensitivity", "--samples=2", "--top=4").split())
    assert "2 pairs of captions:captions.csv, 32 layers" in text
    worst, *rest = by_kl(stored())
    assert f"{short(worst['name'])} ████████████ {1e3 * worst['alone']['logit_kl']:.3g} " in text
    places = [text.rfind(f" {short(entry['name'])} ") for entry in rest[:3]]
    assert places == sorted(places)
    assert -1 not in places
    whole = stored()["analyses"]["sensitivity"]["whole"]["logit_kl"]
    assert f"all quantized: {1e3 * whole:.3g}" in text
    assert "layers, worst first" not in text


def test_layers_can_be_filtered_and_sorted_by_sensitivity(show, stored):
    text = show("--sensitivity", "--samples=2", "--tower=image", "--all")
    table = text.partition("one layer at a time")[2]
    assert len(re.findall(r"^image", table, re.MULTILINE)) == 16
    assert not re.findall(r"^text ", table, re.MULTILINE)
    rows = list(csv.DictReader(io.StringIO(show("--csv", "--sort=sensitivity"))))
    assert [row["name"] for row in rows] == [entry["name"] for entry in by_kl(stored())]


def test_parts_are_shown_one_a_line(show, stored, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    text = show("--parts", "--samples=3")
    assert "one part quantized, the rest float: 3 pairs of captions:captions.csv" in text
    for name in PARTS:
        space = stored()["analyses"]["parts"]["spaces"][name]
        row = next(line for line in text.splitlines() if line.startswith(f"{name}  "))
        numbers = row.removeprefix(name).split()
        assert numbers[0] == f"{space['image_cosine']:.4f}"
        assert numbers[-1] == f"{space['scale_drift']:.2f}"


def test_space_of_the_calibration_pairs_and_of_other_data(show, stored, shapes):
    assert "captions:captions.csv" in show("--space", "--samples=3")
    source = f"classes:{shapes}/classes"
    text = show("--space", f"--data={source}")
    assert re.search(r"^classes:classes .*→.*→", text, re.MULTILINE)
    assert set(stored()["analyses"]["spaces"]) == {
        f"captions:{shapes}/captions.csv (first 3 pairs)",
        source,
    }


def test_what_was_found_is_kept_and_shown_without_being_measured_again(
    qkit, run, show, stored, monkeypatch
):
    show(*ALL)
    written = (run / "report.json").read_bytes()
    monkeypatch.setattr(analysis, "load_teacher", _never)
    again = qkit("report", run, *ALL)
    assert again.exit_code == 0
    assert again.stderr == ""
    assert (run / "report.json").read_bytes() == written
    for part in ("embedding space", "one part quantized", "one layer at a time"):
        assert part in again.stdout
        assert part in show()
    assert json.loads(show("--json")) == stored()
    assert json.loads(show("--json", *ALL)) == stored()
    refreshed = qkit("report", run, "--parts", "--samples=3", "--refresh")
    assert isinstance(refreshed.exception, AssertionError)


def test_everything_fits_the_terminal(show, monkeypatch):
    for columns in (80, 160):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = show(*ALL, "--all").splitlines()
        assert max(map(len, lines)) <= columns
        headers = [line.split()[-1] for line in lines if "img cos" in line]
        assert headers == ["scale"] * 2


def test_the_page_holds_the_analyses(show, tmp_path):
    target = tmp_path / "page.html"
    before = show(f"--html={target}") + target.read_text()
    show(*ALL, f"--html={target}")
    page = target.read_text()
    for name in ("attention operands", "layer inputs"):
        assert page.count(name) > before.count(name)


def test_ctrl_c_says_that_what_was_measured_is_kept(qkit, run, stored, monkeypatch):
    original, calls = analysis.Prober.layer_alone, []

    def interrupted(self, layer):
        calls.append(layer.name)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return original(self, layer)

    monkeypatch.setattr(analysis.Prober, "layer_alone", interrupted)
    result = qkit("report", run, "--sensitivity", "--samples=2")
    assert result.exit_code == 130
    assert result.stdout == ""
    assert f"interrupted: {command.KEPT}" in " ".join(result.stderr.split())
    kept = [entry["name"] for entry in stored()["analyses"]["sensitivity"]["layers"]]
    assert kept
    assert kept == calls[: len(kept)]
    before = len(calls)
    assert qkit("report", run, "--sensitivity", "--samples=2").exit_code == 0
    assert len(calls) - before == 32 - len(kept)
    assert len(by_kl(stored())) == 32


def test_mistakes_in_asking_for_an_analysis(qkit, run, stored, shapes, tiny_folder, tmp_path):
    before = stored()
    for flags, parts in (
        ([f"--data=images:{shapes}/images"], ("neither labels nor captions",)),
        (["--data=classes:nowhere"], ("'nowhere' does not exist",)),
        (["--data=class:x"], ("unknown kind 'class'", "'classes'")),
        (["--model=local-dir:nowhere"], ("could not be loaded", "nowhere")),
        (["--model=demo"], ("demo is not the model", "--model")),
        (["--tower=imge"], ("'image'",)),
    ):
        one_line_error(qkit("report", run, "--space", *flags), *parts)
    assert qkit("report", run, "--space", "--samples=1").exit_code == 2
    shutil.move(shutil.copytree(tiny_folder, tmp_path / "copy"), tmp_path / "moved")
    moved = qkit("report", run, "--space", f"--model=local-dir:{tmp_path / 'moved'}")
    assert moved.exit_code == 0
    assert stored() != before


def _never(*_: object) -> None:
    message = "something was measured again"
    raise AssertionError(message)
