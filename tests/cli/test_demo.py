# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The command line on what qkit brings along."""

import json

import pytest

from qkit.demo.scenes.parts import SIZES, Part
from qkit.pipeline import demo as tour
from tests.cli.conftest import one_line_error


@pytest.fixture
def quick(monkeypatch):
    """Two stops of the tour on fewer pictures: seconds instead of a minute."""
    for part, few in ((Part.LABELLED, 84), (Part.UNSEEN, 36), (Part.PAIRS, 50)):
        monkeypatch.setitem(SIZES, part, few)
    monkeypatch.setattr(tour, "STOPS", tour.STOPS[:2])


def test_calibrate_without_model_and_data_uses_the_demo(qkit):
    result = qkit("calibrate", "--bits=8", "--eval=demo:unseen", "--samples=8", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["model"] == "demo"
    assert report["calibration"]["source"] == "demo:calib"
    assert [metric["data"] for metric in report["metrics"]] == ["demo:unseen"]
    assert report["coverage"]["macs"] > 0.99


def test_the_demo_ends_with_a_table_and_three_commands(qkit, quick, tmp_path):
    result = qkit("demo", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "84 things to name (labelled), 36 in colours" in " ".join(lines)
    assert any(line.startswith("what happened") for line in lines)
    assert any(line.startswith("float ") for line in lines)
    start = lines.index("try next:")
    commands = [line.split("#")[0].split() for line in lines[start + 1 :] if line.strip()]
    assert len(commands) == 3
    assert all(command[0] == "qkit" for command in commands)
    for command in commands:
        extra = [] if command[1] != "calibrate" else ["--samples=4", "--eval=demo:unseen"]
        again = qkit(*command[1:], *extra)
        assert again.exit_code == 0, again.output


def test_the_demo_can_run_again_but_spares_strange_folders(qkit, quick, tmp_path):
    (tmp_path / "w8a8").mkdir()
    (tmp_path / "w8a8" / "notes.txt").write_text("mine")
    one_line_error(qkit("demo", "--out", tmp_path), "w8a8 is no run folder")
    assert (tmp_path / "w8a8" / "notes.txt").read_text() == "mine"


def test_half_named_inputs_are_refused(qkit, shapes):
    one_line_error(qkit("calibrate", f"--data=images:{shapes / 'images'}"), "no model", "--model")
    one_line_error(qkit("calibrate", "--model=ViT-B-32:random"), "no data", "--data")
    one_line_error(qkit("calibrate", "--model=demo", "--data=demo:calbi"), "'calib'")
    one_line_error(qkit("calibrate", "--model=dmo", "--data=demo:calib"), "Did you mean 'demo'?")
