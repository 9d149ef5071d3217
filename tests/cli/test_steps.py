# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""[transform] and [rounding] from the command line: calibrate, report, load, list, refuse."""

import json

import pytest
import torch

import qkit as package
from tests.cli.conftest import one_line_error

WEIGHT = "weight = { bits = 4 }"
TOKENS = 'input = { bits = 4, granularity = "token" }'


def recipe_file(tmp_path, *lines):
    path = tmp_path / "mine.toml"
    path.write_text("\n".join(lines))
    return path


def test_a_shipped_recipe_from_calibration_to_loading(qkit, calibrate_args, tmp_path, pixels):
    out = tmp_path / "run"
    done = qkit(*calibrate_args, "--recipe=w4a4-best-ptq", f"--out={out}")
    assert done.exit_code == 0, done.output
    assert "W4A4 attn8 probs8 per token normal, best, mse, adaround" in done.stdout
    assert "choose coordinates (best)" in done.stderr
    assert "round weights (adaround)" in done.stderr
    shown = qkit("report", out, "--all")
    assert "input before rounding: " in shown.stdout
    layers = json.loads(qkit("report", out, "--json").stdout)["layers"]
    said = {t["coordinates"] for layer in layers for t in layer["tensors"] if t["role"] == "input"}
    assert any("rotated" in words for words in said)
    first, second = (package.load(out).model.encode_image(pixels) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("transforms", ["balance", "best", "reparameterize", "rotate", "smooth"]),
        ("roundings", ["adaround", "gptq"]),
        ("reconstructions", ["blocks"]),
    ],
)
def test_what_can_be_named_is_listed_with_options(qkit, command, names):
    rows = json.loads(qkit(command, "--json").stdout)
    assert [row["name"] for row in rows] == names
    assert all(row["summary"].endswith(".") and row["options"]["samples"] > 0 for row in rows)
    assert all(name in qkit(command).stdout for name in names)


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        (["[transform]", 'method = "bestt"'], ["unknown transform 'bestt'", "'best'"]),
        (["[rounding]", 'method = "gtpq"'], ["unknown rounding 'gtpq'", "'gptq'"]),
        (["[rounding]", 'method = "gptq"', "sample = 3"], ["no option 'sample'", "'samples'"]),
        (["[transform]", "samples = 3"], ["[transform]", "method = None"]),
    ],
)
def test_a_wrong_name_is_one_line(qkit, calibrate_args, tmp_path, lines, parts):
    path = recipe_file(tmp_path, *lines, "[[rule]]", WEIGHT, TOKENS)
    one_line_error(qkit(*calibrate_args, f"--recipe={path}"), *parts)


@pytest.mark.parametrize(
    ("step", "rule", "parts"),
    [
        ("transform", [WEIGHT, "input = false"], ["no input to change", "Quantize inputs"]),
        ("rounding", ["weight = false", TOKENS], ["no weight to round", "Quantize weights"]),
    ],
)
def test_a_step_with_nothing_to_do_is_refused(qkit, calibrate_args, tmp_path, step, rule, parts):
    method = {"transform": "best", "rounding": "gptq"}[step]
    path = recipe_file(tmp_path, f"[{step}]", f'method = "{method}"', "[[rule]]", *rule)
    one_line_error(qkit(*calibrate_args, f"--recipe={path}"), *parts)
