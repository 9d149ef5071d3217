# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Long steps from the command line, [reconstruction] above all: run, stop, go on, refuse."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import qkit as package
from qkit.artifact.checkpoints import Checkpoints
from tests.cli.conftest import one_line_error

RECIPE = """
[transform]
method = "rotate"
samples = 4
rows = 64
[calibrator]
method = "minmax"
[rounding]
method = "gptq"
samples = 6
[reconstruction]
method = "blocks"
samples = 6
batch = 3
iterations = 3
tower = 3
[[rule]]
weight = { bits = 4, grid = "normal" }
input = { bits = 4, granularity = "token", grid = "normal" }
"""

SEARCHING = """
[search]
budget = "bits=5"
choices = "4/4,8/8"
samples = 4
[calibrator]
method = "minmax"
[[rule]]
weight = { bits = 4 }
input = { bits = 4, granularity = "token" }
"""


@pytest.fixture
def args(calibrate_args, tmp_path):
    """A calibration that reconstructs."""
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE)
    return [*calibrate_args, f"--recipe={path}"]


@pytest.fixture
def stopped(qkit, args, tmp_path, monkeypatch):
    """Stops a calibration after some parts were kept; its --out."""

    def stopped(parts, out="run"):
        keep, kept = Checkpoints.keep, []

        def counted(self, name, tensors):
            keep(self, name, tensors)
            kept.append(name)
            if len(kept) == parts:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "keep", counted)
            result = qkit(*args, f"--out={tmp_path / out}")
        assert result.exit_code == 130, result.output
        assert f"kept in {tmp_path / out}.partial; the same command goes on" in result.stderr
        return tmp_path / out

    return stopped


def same(first, second):
    """Whether two run folders hold the same tensors."""
    one, other = (load_file(path / "model.safetensors") for path in (first, second))
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_a_run_says_what_it_did_and_leaves_nothing_beside_it(qkit, args, tmp_path, pixels):
    out = tmp_path / "run"
    done = qkit(*args, f"--out={out}")
    assert done.exit_code == 0, done.output
    assert "W4A4 attn8 per token normal, rotate, minmax, gptq, blocks" in done.stdout
    assert "reconstruct (blocks): 18 of 18" in done.stderr or "reconstruct (blocks)" in done.stderr
    assert not out.with_name("run.partial").exists()
    assert json.loads((out / "manifest.json").read_text())["recipe"]["reconstruction"]["tower"] == 3
    first, second = (package.load(out).model.encode_image(pixels) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("parts", [1, 4])
def test_interrupted_it_goes_on_to_the_same_run(qkit, args, stopped, tmp_path, parts):
    out = stopped(parts)
    partial = out.with_name("run.partial")
    assert len(list(partial.glob("*.safetensors"))) == parts
    assert not out.exists()
    assert qkit(*args, f"--out={out}").exit_code == 0
    assert not partial.exists()
    assert qkit(*args, f"--out={tmp_path / 'whole'}").exit_code == 0
    assert same(out, tmp_path / "whole")


def test_parts_of_another_calibration_are_not_used(qkit, args, stopped):
    out = stopped(1)
    found = qkit(*args, "--weight-bits=3", f"--out={out}")
    one_line_error(found, "run.partial", "another model, recipe or data", "Delete it")


def test_a_damaged_part_is_named(qkit, args, stopped):
    out = stopped(2)
    part = next(out.with_name("run.partial").glob("*.safetensors"))
    part.write_bytes(b"nothing")
    one_line_error(qkit(*args, f"--out={out}"), part.name, "cannot be read", "Delete it")


def test_it_needs_a_weight(qkit, calibrate_args, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[reconstruction]\nmethod = "blocks"\n[[rule]]\nweight = false\n')
    one_line_error(qkit(*calibrate_args, f"--recipe={path}"), "[reconstruction]", "no weight")


def test_interrupted_before_any_part_nothing_stays(qkit, args, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "keep", stop)
    result = qkit(*args, f"--out={tmp_path / 'run'}")
    assert result.exit_code == 130
    assert "interrupted: nothing was written." in result.stderr
    assert not (tmp_path / "run.partial").exists()


def test_an_interrupted_search_goes_on(qkit, args, stopped, tmp_path):
    recipe = Path(args[-1].removeprefix("--recipe="))
    recipe.write_text(SEARCHING)
    out = stopped(1)
    assert len(list(out.with_name("run.partial").rglob("*.safetensors"))) == 1
    done = qkit(*args, f"--out={out}")
    assert done.exit_code == 0, done.output
    assert "8/8: one unit" in done.stderr
    assert "4/4: one unit" not in done.stderr
    assert not out.with_name("run.partial").exists()
    assert qkit(*args, f"--out={tmp_path / 'whole'}").exit_code == 0
    assert same(out, tmp_path / "whole")
