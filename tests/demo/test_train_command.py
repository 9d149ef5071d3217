# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``python -m qkit.demo.train`` from end to end, in a few steps."""

import json

import pytest
import typer
from safetensors.torch import load_file
from typer.testing import CliRunner

from qkit.demo import train as command
from qkit.demo.training import record
from tests.cli.conftest import one_line_error


@pytest.fixture
def train(monkeypatch):
    """Run the command; the stored model is scored on one part only."""
    monkeypatch.setattr(record, "EVALUATION", ("demo:unseen",))
    app = typer.Typer()
    app.command()(command.train)
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args])


def test_model_and_record_are_written(train, tmp_path):
    result = train("--out", tmp_path / "new" / "run", "--shorten=2000")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "new" / "run"
    written = json.loads((folder / "training.json").read_text())
    assert [line["stage"] for line in written["log"]] == ["shapes", "pairs"]
    assert written["plan"]["seed"] == 0
    assert 0 <= written["scores"]["demo:unseen"]["top1"] <= 1
    assert "visual.conv1.weight" in load_file(folder / "model.safetensors")
    assert "pairs step 2: caption" in result.stdout
    one_line_error(train("--out", folder), "holds a training", "--overwrite")


def test_mistakes_are_told_in_one_line(train, tmp_path):
    (tmp_path / "file").write_text("")
    one_line_error(train("--out", tmp_path / "file" / "run"), "cannot write", "Name another")
    one_line_error(
        train("--out", tmp_path / "run", "--device=nonsense"), "'nonsense'", "--device cpu"
    )
    assert train().exit_code == 2
