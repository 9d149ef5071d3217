# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Grids that are not uniform from the command line: calibrate, report, load, refuse."""

import json

import pytest
import torch

import qkit as package
from tests.cli.conftest import one_line_error

AFTER_GELU = ["[[rule]]", 'match = "*.mlp.c_proj"', "weight = { bits = 4 }"]
PROBS = ["[[rule]]", "weight = { bits = 4 }", 'probs = { bits = 4, grid = "log-sqrt2" }']


@pytest.fixture
def recipe(tmp_path):
    def write(*lines):
        path = tmp_path / "mine.toml"
        path.write_text("\n".join(lines))
        return path

    return write


@pytest.mark.parametrize("steps", [[], ["[rounding]", 'method = "gptq"', "samples = 4"]])
@pytest.mark.parametrize("grid", ["shifted-log", "twin-signed"])
def test_from_calibration_to_loading(qkit, calibrate_args, recipe, tmp_path, pixels, grid, steps):
    path = recipe(*steps, *AFTER_GELU, f'input = {{ bits = 4, grid = "{grid}" }}', *PROBS)
    out = tmp_path / "run"
    done = qkit(*calibrate_args, f"--recipe={path}", f"--out={out}")
    assert done.exit_code == 0, done.output
    assert f"attn8 probs4 log-sqrt2 {grid}, mse" in done.stdout
    shown = qkit("report", out, "--all").stdout
    assert "probs on a log-sqrt2 grid" in shown
    assert f"input on a {grid} grid" in shown
    layers = json.loads(qkit("report", out, "--json").stdout)["layers"]
    grids = {t["role"]: t["grid"] for layer in layers for t in layer["tensors"]}
    assert grids["probs"] == "log-sqrt2"
    assert grids["query"] == grids["weight"] == "uniform"
    first, second = (package.load(out).model.encode_image(pixels) for _ in range(2))
    assert torch.equal(first, second)
    page = tmp_path / "report.html"
    assert qkit("report", out, f"--html={page}").exit_code == 0
    assert "4 bits per tensor, on a log-sqrt2 grid." in page.read_text()


def test_a_transform_leaves_such_inputs_alone(qkit, calibrate_args, recipe, tmp_path):
    path = recipe(
        *("[transform]", 'method = "rotate"', "samples = 4"),
        *(*AFTER_GELU, 'input = { bits = 4, grid = "shifted-log" }'),
        *("[[rule]]", 'input = { bits = 4, granularity = "token" }'),
    )
    out = tmp_path / "run"
    assert qkit(*calibrate_args, f"--recipe={path}", f"--out={out}").exit_code == 0
    layers = json.loads(qkit("report", out, "--json").stdout)["layers"]
    inputs = [t for layer in layers for t in layer["tensors"] if t["role"] == "input"]
    assert any(t["coordinates"] for t in inputs)
    assert not any(t["coordinates"] for t in inputs if t["grid"] == "shifted-log")


@pytest.mark.parametrize(
    ("lines", "flags", "parts"),
    [
        (['input = { grid = "log2" }'], [], ["made for probs, not for input"]),
        (['probs = { grid = "logg" }'], [], ["unknown grid 'logg'", "'log'"]),
        (
            ['input = { grid = "shifted-log" }'],
            [],
            [":input reaches -", "grid = 'shifted-log'", "after a GELU"],
        ),
        (
            ['probs = { grid = "twin" }'],
            ["--method=entropy", "--option=mode=released"],
            ["'released' knows uniform grids only", "Use mode = 'paper'"],
        ),
        (
            ['input = { grid = "twin-signed" }'],
            ["--act-granularity=token"],
            ["granularity 'token' is not possible"],
        ),
        (
            ["[transform]", 'method = "best"', "[[rule]]", 'input = { grid = "twin-signed" }'],
            [],
            ["[transform] 'best' has no input to change", "grid of their own"],
        ),
    ],
)
def test_what_cannot_be_is_one_line(qkit, calibrate_args, recipe, lines, flags, parts):
    start = [] if "[[rule]]" in lines else ["[[rule]]"]
    path = recipe(*start, *lines)
    one_line_error(qkit(*calibrate_args, f"--recipe={path}", *flags), *parts)
