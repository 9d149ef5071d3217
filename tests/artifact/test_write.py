# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A run folder is written whole or not at all."""

import json
import os
import stat

import pytest
import torch
from safetensors.torch import load_file

from qkit.artifact import folder
from qkit.artifact.folder import check_target, read_run, write_run
from qkit.errors import ArtifactError

TENSORS = {"a.weight.packed": torch.arange(6, dtype=torch.uint8), "b": torch.randn(3, 4).T}
MANIFEST = {"model": {"spec": "tiny"}}
REPORT = {"size": {"float_bytes": 7}}
NAMES = ["manifest.json", "model.safetensors", "report.json"]


def write(path, tensors=TENSORS, **options):
    write_run(path, tensors, MANIFEST, REPORT, **options)


def snapshot(path):
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


@pytest.fixture
def run(tmp_path):
    """A run folder, the only thing in its parent."""
    path = tmp_path / "runs" / "first"
    write(path)
    return path


def test_the_folder_holds_three_files_and_no_pickle(run):
    assert sorted(snapshot(run)) == NAMES
    model = snapshot(run)["model.safetensors"]
    header = int.from_bytes(model[:8], "little")
    assert set(json.loads(model[8 : 8 + header])) - {"__metadata__"} == TENSORS.keys()
    assert len(model) == 8 + header + 6 + 4 * 12
    for name, tensor in load_file(run / "model.safetensors").items():
        assert torch.equal(tensor, TENSORS[name])


def test_what_is_written_is_what_is_read(run):
    found = read_run(run)
    assert found.path == run
    assert found.manifest["model"] == MANIFEST["model"]
    assert found.manifest["format"] == folder.FORMAT
    size = (run / "model.safetensors").stat().st_size
    assert found.manifest["files"]["model.safetensors"]["bytes"] == size
    assert found.report["size"] == {"float_bytes": 7, "quantized_bytes": size}
    assert found.tensors().keys() == TENSORS.keys()


def test_others_may_read_it(run):
    assert stat.S_IMODE(run.stat().st_mode) == 0o755


def test_parents_are_made(tmp_path):
    write(tmp_path / "a" / "b" / "c")
    assert sorted(snapshot(tmp_path / "a" / "b" / "c")) == NAMES


def test_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(folder.Path("here"))
    assert os.listdir(tmp_path) == ["here"]  # noqa: PTH208


def test_an_empty_folder_is_filled(tmp_path):
    path = tmp_path / "empty"
    path.mkdir()
    write(path)
    assert sorted(snapshot(path)) == NAMES
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_run_is_refused(run):
    before = snapshot(run)
    fact = rf"^{run} exists\. Choose another --out, or pass --overwrite to replace it"
    with pytest.raises(ArtifactError, match=fact):
        write(run)
    assert snapshot(run) == before


def test_an_existing_file_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    for overwrite, fact in (
        (False, "exists"),
        (True, "is no run folder, so it is not overwritten"),
    ):
        with pytest.raises(ArtifactError, match=rf"notes.txt {fact}\. Choose another --out"):
            write(path, overwrite=overwrite)
    assert path.read_text() == "mine"


def test_overwrite_replaces_a_run_and_leaves_nothing_beside_it(run):
    write(run, {"c": torch.zeros(2)}, overwrite=True)
    assert list(read_run(run).tensors()) == ["c"]
    assert sorted(snapshot(run)) == NAMES
    assert list(run.parent.iterdir()) == [run]


def test_overwrite_where_there_is_nothing_just_writes(tmp_path):
    write(tmp_path / "new", overwrite=True)
    assert sorted(snapshot(tmp_path / "new")) == NAMES


def test_overwrite_spares_what_is_no_run_folder(tmp_path):
    home = tmp_path / "photos"
    home.mkdir()
    (home / "cat.png").write_bytes(b"cat")
    fact = rf"^{home} is no run folder, so it is not overwritten\. Choose another --out"
    with pytest.raises(ArtifactError, match=fact):
        write(home, overwrite=True)
    assert snapshot(home) == {"cat.png": b"cat"}


def test_check_target_writes_nothing(tmp_path):
    check_target(tmp_path / "new", overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_of_the_parent(tmp_path):
    (tmp_path / "file").write_text("x")
    fact = r"file/run cannot be written: (File exists|Not a directory)\. Choose another --out"
    with pytest.raises(ArtifactError, match=fact):
        write(tmp_path / "file" / "run")


def test_a_read_only_parent(tmp_path, monkeypatch):
    monkeypatch.setattr(folder.os, "access", lambda path, mode: False)
    with pytest.raises(ArtifactError, match=r"run cannot be written: its parent is read-only\. C"):
        write(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_a_run_can_be_overwritten(run):
    """Where ``latest`` points to a run, its target or the link is replaced, without a trace."""
    link = run.parent / "latest"
    link.symlink_to(run, target_is_directory=True)
    write(link, {"c": torch.zeros(2)}, overwrite=True)
    assert list(read_run(link).tensors()) == ["c"]
    assert sorted(run.parent.iterdir()) == [run, link]


def test_numbers_that_json_does_not_know_leave_nothing(tmp_path):
    with pytest.raises(ArtifactError, match=r"Out of range float.*finite numbers"):
        write_run(tmp_path / "run", TENSORS, {"seed": float("nan")}, REPORT)
    assert list(tmp_path.iterdir()) == []


def test_json_is_readable_by_people(run):
    text = (run / "manifest.json").read_text()
    assert text.count("\n") > 5
    assert json.loads(text)["format"] == 1
