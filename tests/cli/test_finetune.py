# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``qkit finetune p4q``: train, stop, go on, show, refuse."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file

from qkit.demo.scenes.parts import SIZES, Part
from qkit.p4q.trainer import PART
from qkit.pipeline.finetune import demo
from qkit.pipeline.finetune.objective import TowerObjective
from tests.cli.conftest import one_line_error

QUICK = ("--shots=3", "--epochs=3", "--batch-size=5", "--context=4")


@pytest.fixture(scope="module")
def run(save_run):
    """A run at 4 bits."""
    return save_run()


@pytest.fixture
def args(run, shapes):
    """A quick fine-tuning of it."""
    return ["finetune", "p4q", run, f"--data=classes:{shapes / 'classes'}", *QUICK]


@pytest.fixture
def stopped(qkit, args, tmp_path, monkeypatch):
    """Stops a training in its third epoch; its --out."""
    inner = TowerObjective.losses

    def stop(self, samples, epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        return inner(self, samples, epoch)

    out = tmp_path / "tuned"
    with monkeypatch.context() as patch:
        patch.setattr(TowerObjective, "losses", stop)
        result = qkit(*args, f"--out={out}")
    assert result.exit_code == 130, result.output
    said = " ".join(result.stderr.split())
    assert f"each epoch is kept in {out}.partial; the same command with --resume goes on" in said
    assert not out.exists()
    return out


def test_from_a_run_to_a_run_that_evaluate_and_report_take(qkit, args, shapes, tmp_path):
    out, source = tmp_path / "tuned", f"classes:{shapes / 'classes'}"
    done = qkit(*args, f"--eval={source}", f"--eval=captions:{shapes}/captions.csv", f"--out={out}")
    assert done.exit_code == 0, done.output
    text = " ".join(done.stdout.split())
    assert re.search(
        r"9 images, 3 epochs in \d+ s: loss \d\.\d{3}, accuracy [\d.]+ % on them", text
    )
    assert re.search(r"680 parameters added, 0\.\d\d % of the model", text)
    lines = done.stdout.splitlines()
    header = next(line for line in lines if line.startswith("data"))
    assert " ".join(header.split()) == "data figure float quantized P4Q regained to float"
    assert sum("cosine" in line for line in lines[lines.index(header) :]) == 2
    assert "train: 6 in" in done.stderr
    assert f"qkit report {out}" in " ".join(done.stderr.split())
    assert not out.with_name("tuned.partial").exists()
    stored = json.loads((out / "report.json").read_text())
    again = qkit("evaluate", out, f"--data={source}", "--json")
    assert json.loads(again.stdout)[0]["quantized"] == stored["metrics"][0]["quantized"]
    shown = qkit("report", out)
    assert shown.exit_code == 0, shown.output
    assert "W4A4 attn8, minmax, p4q" in shown.stdout
    assert "680 parameters added" in " ".join(shown.stdout.split())
    spaced = qkit("report", out, "--space", f"--data={source}", "--json")
    found = json.loads(spaced.stdout)["analyses"]["spaces"][source]
    assert found == stored["metrics"][0]["space"]


def test_the_table_fits_80_columns(qkit, args, shapes, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = qkit(
        *args, f"--eval=classes:{shapes / 'classes'}", f"--eval=captions:{shapes}/captions.csv"
    )
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "not kept: no --out was given" in done.stderr


def test_json_is_what_the_manifest_says(qkit, args, tmp_path):
    out = tmp_path / "tuned"
    flags = ("--position=front", "--no-adapter", "--distill=0.5", "--temperature=2", "--released")
    done = qkit(*args, *flags, f"--out={out}", "--json")
    found = json.loads(done.stdout)
    assert found == json.loads((out / "manifest.json").read_text())["p4q"]
    assert found["options"]["adapter"] is None
    assert found["options"]["prompt"]["position"] == "front"
    assert found["options"]["loss"] == {
        "task": 1.0,
        "distill": 0.5,
        "temperature": 2.0,
        "released": True,
        "teacher_text": "templates",
    }
    assert set(load_file(out / "p4q.safetensors")) == {"prompt.context"}


def test_interrupted_it_goes_on_to_the_same_run(qkit, args, stopped, tmp_path):
    partial = stopped.with_name("tuned.partial")
    assert len(load_file(partial / f"{PART}.safetensors")["curve"]) == 2
    one_line_error(
        qkit(*args, f"--out={stopped}"), "tuned.partial holds an interrupted", "--resume"
    )
    done = qkit(*args, f"--out={stopped}", "--resume")
    assert done.exit_code == 0, done.output
    assert not partial.exists()
    whole = tmp_path / "whole"
    assert qkit(*args, f"--out={whole}").exit_code == 0
    for name in ("model.safetensors", "p4q.safetensors"):
        one, other = (load_file(path / name) for path in (stopped, whole))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_epochs_of_another_training_are_not_used(qkit, args, stopped):
    found = qkit(*args, f"--out={stopped}", "--resume", "--adapter-bits=4")
    one_line_error(found, "tuned.partial", "another model, recipe or data", "Delete it")


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--shots=5"], ["3 classes have fewer images than --shots 5", "blue (4)", "--shots 4"]),
        (["--context=13"], ["class 'blue' does not fit", "--context 12"]),
        (["--init= "], ["phrase ' ' has no words"]),
        (["--position=last"], ["unknown --position 'last'", "end, middle, front"]),
        (["--adapter-bits=1"], ["--adapter-bits 1 is not possible", "from 2 to 8"]),
        (["--no-prompt", "--no-adapter"], ["neither prompt nor adapter"]),
        (["--no-prompt", "--teacher-text=prompt"], ["--teacher-text prompt needs a prompt"]),
        (["--epochs=0"], ["--epochs 0 is not possible"]),
        (["--templates=8"], ["there is no set of 8 templates"]),
        (["--resume"], ["--resume needs the --out"]),
        (["--device=tpu9"], ["--device tpu9 is not at hand", "cpu"]),
        (["--device=meta"], ["--device meta is not at hand"]),
        (["--model=demo"], ["demo is not the model", "--model"]),
        (["--eval=images:."], ["neither labels nor captions"]),
    ],
)
def test_mistakes_are_one_line(qkit, args, flags, parts):
    result = qkit(*args, *flags)
    one_line_error(result, *parts)
    assert result.stdout == ""


def test_a_name_and_its_folder(qkit, args, run, shapes, tmp_path):
    """A class folder that the names file does not list; a run, or data, that are missing."""
    shutil.copytree(shapes / "classes", tmp_path / "data" / "train")
    (tmp_path / "data" / "classnames.txt").write_text("blue\tblue\ngreen\tgreen\n")
    found = qkit("finetune", "p4q", run, f"--data=classes:{tmp_path}/data/train", *QUICK)
    one_line_error(found, "class folder 'red' is not listed", "Add a line")
    one_line_error(qkit("finetune", "p4q", run), "no data to learn from", "--data")
    one_line_error(qkit("finetune", "p4q", "--data=demo:tune"), "but no run")
    none = qkit("finetune", "p4q", tmp_path / "none", *args[3:])
    one_line_error(none, "none is no run folder")


def test_an_existing_run_is_not_replaced_unasked(qkit, args, tmp_path):
    out = tmp_path / "tuned"
    assert qkit(*args, "--epochs=1", f"--out={out}").exit_code == 0
    one_line_error(qkit(*args, f"--out={out}"), "tuned exists", "--overwrite")
    one_line_error(qkit("finetune", "p4q", out, *args[3:]), "is fine-tuned already")
    assert qkit(*args, "--epochs=1", f"--out={out}", "--overwrite").exit_code == 0


def test_without_a_run_it_is_the_demo(qkit, monkeypatch, tmp_path):
    few = ((Part.LABELLED, 84), (Part.UNSEEN, 36), (Part.PAIRS, 50), (Part.TUNE, 168))
    for part, count in few:
        monkeypatch.setitem(SIZES, part, count)
    monkeypatch.setattr(demo, "RECIPE", "w8a8-minmax")
    out = tmp_path / "demo"
    done = qkit("finetune", "p4q", "--epochs=2", "--shots=2", f"--out={out}")
    assert done.exit_code == 0, done.output
    assert "168 images, 2 epochs" in " ".join(done.stdout.split())
    for name in ("demo:labelled", "demo:unseen", "demo:pairs"):
        assert name in done.stdout
    again = qkit("evaluate", out, "--data=demo:unseen", "--json")
    stored = json.loads((out / "report.json").read_text())["metrics"][1]
    assert json.loads(again.stdout)[0]["quantized"] == stored["quantized"]
