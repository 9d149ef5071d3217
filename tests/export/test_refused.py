# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What cannot be exported is refused in one line, before anything is written."""

import importlib

import pytest

import qkit
from qkit.errors import ArtifactError, DataError, ExportError
from qkit.exports import compiled, optional
from qkit.pipeline.export import export as job
from qkit.report.export import BackendProof, TowerProof

pytestmark = pytest.mark.backends


def without(monkeypatch, *packages):
    """Let packages be missing."""
    original = importlib.import_module

    def import_module(name, package=None):
        if name in packages:
            message = f"No module named {name!r}"
            raise ModuleNotFoundError(message)
        return original(name, package)

    monkeypatch.setattr(optional.importlib, "import_module", import_module)


@pytest.mark.parametrize(
    ("format", "package"),
    [("onnx", "onnxscript"), ("onnx", "onnxruntime"), ("openvino", "openvino")],
)
def test_a_missing_package(save_run, tmp_path, monkeypatch, format, package):
    without(monkeypatch, package)
    said = rf"--format {format} needs the package '{package}'.*pip install 'qkit-clip\[export\]'"
    with pytest.raises(ExportError, match=said):
        qkit.export(tmp_path, format, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_no_compiler(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled.shutil, "which", lambda _name: None)
    with pytest.raises(ExportError, match=r"needs a C\+\+ compiler, and there is no"):
        qkit.export(tmp_path, "compiled", tmp_path / "out")


def test_an_unknown_format(tmp_path):
    with pytest.raises(ExportError, match=r"unknown format 'onx'. Did you mean 'onnx'\? Use: onnx"):
        qkit.export(tmp_path, "onx", tmp_path / "out")


def test_no_run(tmp_path):
    with pytest.raises(ArtifactError, match="is no run folder"):
        qkit.export(tmp_path, "onnx", tmp_path / "out")


def test_a_folder_that_exists(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ArtifactError, match=r"exists\. Choose another --out, or pass --overwrite"):
        qkit.export(tmp_path, "onnx", tmp_path)
    with pytest.raises(ArtifactError, match="is no export folder, so it is not overwritten"):
        qkit.export(tmp_path, "onnx", tmp_path, overwrite=True)


def test_too_few_samples(save_run, tmp_path):
    with pytest.raises(ExportError, match=r"samples = 1 prove nothing\. Use 2 or more"):
        qkit.export(save_run(), "onnx", tmp_path / "out", samples=1)
    with pytest.raises(DataError, match="does not exist"):
        qkit.export(save_run(), "onnx", tmp_path / "out", data=f"images:{tmp_path}/none")


def test_an_interrupt_leaves_nothing(exported, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    path = exported("W8A8 static", "onnx").path
    monkeypatch.setattr(job, "_write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        qkit.export(path, "onnx", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def proof(cosine):
    towers = (TowerProof("image", 0.0, cosine, cosine, 1, 1), TowerProof("text", 0.0, 1, 1, 1, 1))
    return BackendProof("backend", towers, 1.0)


@pytest.mark.parametrize("cosine", [0.5, float("nan")])
def test_an_export_that_computes_something_else_fails(exported, cosine):
    from dataclasses import replace

    report = exported("W8A8 static", "onnx").report
    assert report.passed
    wrong = replace(report, proofs=(proof(1.0), proof(cosine)))
    assert not wrong.passed
    with pytest.raises(ExportError, match=r"the image tower in backend has .* do not use them"):
        job.require_passed(wrong)
