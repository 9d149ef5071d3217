# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``qkit export``: a table, a folder, an exit code."""

import json

import pytest

from tests.cli.conftest import one_line_error

pytestmark = pytest.mark.backends

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def test_a_table_and_a_folder(qkit, saved, tmp_path):
    out = tmp_path / "out"
    done = qkit("export", saved, "--format=onnx", f"--out={out}", "--samples=5")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[1].split() == ["tower", "cosine", "least", "diff", "int8", "top-1", "%"]
    assert max(len(line) for line in lines) <= 80
    said = " ".join(done.stdout.split())
    assert "sums of floats image" in said
    assert "ONNX Runtime" in said
    assert "14/14" in said
    assert "accepted from a cosine of: image 0.99" in said
    assert f"written to {out}, with the proof in export.json" in " ".join(done.stderr.split())
    assert sorted(file.name for file in out.iterdir()) == ["export.json", "image.onnx", "text.onnx"]
    _a_failed_proof(qkit, saved, out)


def _a_failed_proof(qkit, saved, out):
    """It replaces the export, keeps the files, and fails."""
    args = ("--samples=3", "--min-cosine=1.1", "--overwrite", "--json")
    failed = qkit("export", saved, "--format=onnx", f"--out={out}", *args)
    assert failed.exit_code == 1
    assert json.loads(failed.stdout)["passed"] is False
    assert json.loads((out / "export.json").read_text())["samples"] == 3
    one_line_error(failed, "below 1.10000", "do not use them")


def test_mistakes(qkit, saved, tmp_path):
    out = f"--out={tmp_path}/out"
    one_line_error(qkit("export", saved, out), "--format is missing", "onnx|openvino|compiled")
    one_line_error(qkit("export", saved, "--format=onnx"), "--out is missing")
    one_line_error(qkit("export", saved, "--format=onx", out), "Did you mean 'onnx'?")
    one_line_error(qkit("export", tmp_path, "--format=onnx", out), "is no run folder")
    data = f"--data=images:{tmp_path}/none"
    one_line_error(qkit("export", saved, "--format=onnx", out, data), "does not exist")
    assert not list(tmp_path.iterdir())
