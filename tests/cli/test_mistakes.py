# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Every mistake gets one line: fact, value, remedy; an exit code; and nothing half-written."""

import json
import os
import shutil
import signal
import sys
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import qkit.artifact.folder
import qkit.pipeline.steps
from qkit.cli import main
from tests.cli.conftest import one_line_error


def test_unknown_model_names_the_nearest(qkit, shapes):
    result = qkit("calibrate", "--model=ViT-B32:openai", f"--data=images:{shapes / 'images'}")
    one_line_error(result, "'ViT-B32'", "'ViT-B-32'")


def test_unknown_method_names_the_nearest(qkit, calibrate_args):
    one_line_error(qkit(*calibrate_args, "--method=mce"), "'mce'", "'mse'", "percentile")


def test_unknown_data_kind_names_the_nearest(qkit, tiny_folder):
    result = qkit("calibrate", f"--model=local-dir:{tiny_folder}", "--data=caption:x.csv")
    one_line_error(result, "'caption'", "'captions'")


def test_unknown_recipe_and_recipe_key(qkit, calibrate_args, tmp_path):
    one_line_error(qkit(*calibrate_args, "--recipe=w8a8-mze"), "'w8a8-mze'", "'w8a8-mse'")
    recipe = tmp_path / "mine.toml"
    recipe.write_text('[[rule]]\nmach = "*"\n')
    one_line_error(qkit(*calibrate_args, f"--recipe={recipe}"), "'mach'", "'match'", "rule 1")


def test_unknown_option_of_a_method(qkit, calibrate_args):
    result = qkit(*calibrate_args, "--method=percentile", "--option=percentil=99.99")
    one_line_error(result, "'percentil'", "'percentile'")
    one_line_error(qkit(*calibrate_args, "--option=percentile"), "KEY=VALUE")


@pytest.mark.parametrize("bits", [1, 9])
def test_bits_out_of_range(qkit, calibrate_args, bits):
    one_line_error(qkit(*calibrate_args, f"--bits={bits}"), f"bits = {bits}", "2 to 8")


def test_low_percentile_is_noted(qkit, calibrate_args):
    options = ["--method=percentile", "--option=percentile=99.9"]
    result = qkit(*calibrate_args, "--bits=8", *options)
    assert result.exit_code == 0
    assert "note: percentile 99.9" in result.stderr


def test_empty_data(qkit, tiny_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    source = f"--data=images:{tmp_path / 'empty'}"
    one_line_error(qkit("calibrate", f"--model=local-dir:{tiny_folder}", source), "empty")


def test_truncated_image_is_named_and_can_be_skipped(qkit, tiny_folder, shapes, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(shapes / "images", folder)
    broken = folder / "broken.jpg"
    Image.effect_noise((64, 64), 50).convert("RGB").save(broken)
    broken.write_bytes(broken.read_bytes()[:500])
    args = ["calibrate", f"--model=local-dir:{tiny_folder}", f"--data=images:{folder}"]
    one_line_error(qkit(*args), "broken.jpg", "--skip-bad")
    result = qkit(*args, "--skip-bad", "--json")
    skipped = json.loads(result.stdout)["calibration"]["skipped"]
    assert [item["file"] for item in skipped] == ["broken.jpg"]


def test_unreadable_images_of_one_name_are_all_counted(qkit, calibrate_args, shapes, tmp_path):
    folder = shutil.copytree(shapes / "classes", tmp_path / "classes")
    for colour in ("red", "blue"):
        (folder / colour / "0.png").write_bytes(b"no image")
    evaluated = [*calibrate_args, f"--eval=classes:{folder}"]
    one_line_error(qkit(*evaluated), "0.png", "--skip-bad")
    metric = json.loads(qkit(*evaluated, "--skip-bad", "--json").stdout)["metrics"][0]
    assert (metric["samples"], metric["skipped"]) == (10, 2)


def test_nan_weight_names_the_layer(qkit, calibrate_args, tiny_folder, tmp_path):
    folder = tmp_path / "nan"
    shutil.copytree(tiny_folder, folder)
    file = folder / "open_clip_model.safetensors"
    state = load_file(file)
    state["transformer.resblocks.1.mlp.c_fc.weight"][0, 0] = torch.nan
    save_file(state, file)
    args = [a for a in calibrate_args if "--model" not in a]
    result = qkit(*args, f"--model=local-dir:{folder}")
    one_line_error(result, "transformer.resblocks.1.mlp", "NaN")


def test_constant_activation_names_the_layer(qkit, tiny_folder, tmp_path):
    (tmp_path / "grey").mkdir()
    for i in range(3):
        Image.new("RGB", (40, 40), (128, 128, 128)).save(tmp_path / "grey" / f"{i}.png")
    source = f"--data=images:{tmp_path / 'grey'}"
    # CLIP's three channel means differ, so a grey image is constant only per channel
    args = ["calibrate", f"--model=local-dir:{tiny_folder}", source, "--act-granularity=channel"]
    one_line_error(qkit(*args), "visual.conv1:input", "constant")


def test_rule_that_covers_a_tower_is_noted(qkit, calibrate_args, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text('[[rule]]\nmatch = "*visual*"\nignore = true\n[[rule]]\nmatch = "*"\n')
    result = qkit(*calibrate_args, f"--recipe={recipe}")
    assert result.exit_code == 0
    assert "whole image tower" in result.stderr


def test_min_coverage_fails_the_run(qkit, calibrate_args, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text('[[rule]]\nmatch = "*.mlp.*"\nignore = true\n[[rule]]\nmatch = "*"\n')
    result = qkit(*calibrate_args, f"--recipe={recipe}", "--min-coverage=0.9")
    one_line_error(result, "only", "90.00%", "mlp")


def test_existing_folder_is_refused_before_any_work(qkit, calibrate_args, tmp_path, monkeypatch):
    out = tmp_path / "run"
    assert qkit(*calibrate_args, "--bits=8", f"--out={out}").exit_code == 0
    written = (out / "manifest.json").read_bytes()
    monkeypatch.setattr("qkit.pipeline.calibrate.load_model", _never)
    one_line_error(qkit(*calibrate_args, "--bits=8", f"--out={out}"), "exists", "--overwrite")
    assert (out / "manifest.json").read_bytes() == written
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    result = qkit(*calibrate_args, f"--out={tmp_path / 'mine'}", "--overwrite")
    one_line_error(result, "no run folder")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_overwrite_replaces_a_run(qkit, calibrate_args, tmp_path):
    out = tmp_path / "run"
    qkit(*calibrate_args, "--bits=8", f"--out={out}")
    assert qkit(*calibrate_args, "--bits=4", f"--out={out}", "--overwrite").exit_code == 0
    assert json.loads((out / "report.json").read_text())["label"].startswith("W4A4")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_damaged_missing_and_newer_runs(qkit, calibrate_args, shapes, tmp_path):
    one_line_error(qkit("report", tmp_path / "nothing"), "no run folder")
    out = tmp_path / "run"
    qkit(*calibrate_args, f"--out={out}")
    model = out / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-100])
    data = f"--data=classes:{shapes / 'classes'}"
    one_line_error(qkit("evaluate", out, data), "damaged", "model.safetensors")
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | {"format": 2}))
    one_line_error(qkit("report", out), "format 2", "Upgrade")


def test_full_disk_leaves_nothing(qkit, calibrate_args, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(qkit_folder(), "save_file", full)
    result = qkit(*calibrate_args, f"--out={tmp_path / 'run'}")
    one_line_error(result, "No space left on device", "Nothing was kept")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["observe", "save_file"])
def test_interrupt_leaves_nothing(qkit, calibrate_args, tmp_path, monkeypatch, where):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    home = qkit_steps() if where == "observe" else qkit_folder()
    monkeypatch.setattr(home, where, interrupt)
    result = qkit(*calibrate_args, f"--out={tmp_path / 'run'}")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_the_system_stops_leaves_nothing(calibrate_args, tmp_path, monkeypatch, capsys):
    def stop(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)  # it does not come to that

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(qkit_folder(), "save_file", stop)
    monkeypatch.setattr(sys, "argv", ["qkit", *calibrate_args, f"--out={tmp_path / 'run'}"])
    try:
        with pytest.raises(SystemExit) as left:
            main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert left.value.code == 130
    assert "interrupted: nothing was written." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_unknown_verb_and_flag(qkit):
    for args in (["calibrat"], ["report", "--tip"]):
        result = qkit(*args)
        assert result.exit_code == 2
        assert "Traceback" not in result.output


def qkit_steps():
    return qkit.pipeline.steps


def qkit_folder():
    return qkit.artifact.folder


def _never(*_: object) -> None:
    message = "work was done before the target was checked"
    raise AssertionError(message)
