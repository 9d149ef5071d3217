# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Reading a run folder: every doubt is an error that says what to do."""

import json

import pytest
import torch

import qkit
from qkit.artifact.folder import read_run, write_run
from qkit.errors import ArtifactError


@pytest.fixture
def run(tmp_path):
    """A small run folder that no model belongs to."""
    path = tmp_path / "run"
    write_run(path, {"a": torch.arange(4096.0)}, {"seed": 0}, {"size": {}})
    return path


@pytest.fixture
def edit(run):
    """Change the manifest by a function."""

    def change(function):
        path = run / "manifest.json"
        manifest = json.loads(path.read_text())
        function(manifest)
        path.write_text(json.dumps(manifest))

    return change


def refuse(run, fact, read=read_run):
    with pytest.raises(ArtifactError, match=fact):
        read(run)


def damaged(detail):
    return rf"^run folder .*/run is damaged: {detail}.*Calibrate again"


def test_no_folder(tmp_path):
    fact = rf"^{tmp_path}/no is no run folder: it has no manifest.json\. Give the --out of a cal"
    refuse(tmp_path / "no", fact)
    refuse(tmp_path / "no", fact, qkit.load)


def test_folder_of_something_else(tmp_path):
    (tmp_path / "report.json").write_text("{}")
    refuse(tmp_path, rf"^{tmp_path} is no run folder: it has no manifest.json")


@pytest.mark.parametrize("name", ["manifest.json", "report.json"])
@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b'{"format": 1,\n "x', r"cannot be read: .*line 2"),
        (b"", "cannot be read: Expecting value"),
        (b"[1]", "is no JSON object"),
        (b'{"a": "\xff"}', "cannot be read: 'utf-8' codec"),
    ],
)
def test_broken_json(run, name, content, detail):
    (run / name).write_bytes(content)
    refuse(run, damaged(f"{name} {detail}"))


def test_missing_report(run):
    (run / "report.json").unlink()
    refuse(run, damaged("report.json cannot be read: .*No such file"))


def test_newer_format(run, edit):
    edit(lambda manifest: manifest.update(format=2))
    refuse(run, r"/run has format 2, this qkit reads up to 1\. Upgrade qkit-clip")


@pytest.mark.parametrize("value", ["1", None, 1.0])
def test_format_that_is_no_number(run, edit, value):
    edit(lambda manifest: manifest.update(format=value))
    refuse(run, damaged("manifest.json names no format"))


def read_tensors(path):
    return read_run(path).tensors()


def test_truncated_model(run):
    model = run / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-100])
    refuse(run, damaged("model.safetensors differs from what was written"), read_tensors)


def test_one_bit_of_the_model_flipped(run):
    model = run / "model.safetensors"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    refuse(run, damaged("model.safetensors differs from what was written"), read_tensors)


def test_missing_model(run):
    (run / "model.safetensors").unlink()
    refuse(run, damaged("model.safetensors cannot be read: .*No such file"), read_tensors)


@pytest.mark.parametrize("files", [None, {}, {"model.safetensors": {}}, [], "x"])
def test_manifest_without_the_checksum(run, edit, files):
    edit(lambda manifest: manifest.update(files=files))
    refuse(run, damaged("model.safetensors cannot be read"), read_tensors)


@pytest.mark.parametrize("key", ["model", "recipe"])
@pytest.mark.parametrize("value", [None, "x", 3])
def test_manifest_that_names_no_model_or_recipe(run, edit, tiny, key, value):
    good = {"model": {"spec": "tiny", "config": tiny.config}, "recipe": {}}
    edit(lambda manifest: manifest.update({**good, key: value}))
    refuse(run, damaged(""), qkit.load)


def test_a_manifest_whose_tensors_are_those_of_another_model(run, edit, tiny):
    good = {"model": {"spec": "tiny", "config": tiny.config}, "recipe": {}}
    edit(lambda manifest: manifest.update(good))
    fact = r"^the stored tensors do not fit the model they name \('visual.conv1:.*\)\. Calibrate ag"
    refuse(run, fact, qkit.load)
