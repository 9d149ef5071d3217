# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Whatever interrupts the writing leaves the place as it was."""

import errno

import pytest
import torch

from qkit.artifact import folder
from qkit.artifact.folder import read_run, write_run
from qkit.errors import ArtifactError

OLD, NEW = {"old": torch.zeros(3)}, {"new": torch.ones(3)}
TARGETS = ["save_file", "_sha256", "_write_json", "_move_into_place"]


def write(path, tensors, **options):
    write_run(path, tensors, {}, {}, **options)


def fail_in(monkeypatch, name, error):
    """Let a step do its work and then fail."""
    original = getattr(folder, name)

    def step(*args, **kwargs):
        if name != "_move_into_place":
            original(*args, **kwargs)
        raise error

    monkeypatch.setattr(folder, name, step)


def full_disk():
    return OSError(errno.ENOSPC, "No space left on device")


def check_untouched(path):
    assert list(read_run(path).tensors()) == ["old"]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", TARGETS)
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, step):
    fail_in(monkeypatch, step, full_disk())
    fact = (
        r"run could not be written: .*No space left on device\. Nothing was kept; free some space"
    )
    with pytest.raises(ArtifactError, match=fact):
        write(tmp_path / "run", NEW)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", TARGETS)
def test_a_full_disk_does_not_touch_the_run_to_be_replaced(tmp_path, monkeypatch, step):
    write(tmp_path / "run", OLD)
    fail_in(monkeypatch, step, full_disk())
    with pytest.raises(ArtifactError, match="could not be written"):
        write(tmp_path / "run", NEW, overwrite=True)
    monkeypatch.undo()
    check_untouched(tmp_path / "run")


@pytest.mark.parametrize("step", TARGETS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_ctrl_c_leaves_everything_as_it_was(tmp_path, monkeypatch, step, overwrite):
    if overwrite:
        write(tmp_path / "run", OLD)
    fail_in(monkeypatch, step, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "run", NEW, overwrite=overwrite)
    monkeypatch.undo()
    if overwrite:
        check_untouched(tmp_path / "run")
    else:
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [full_disk(), KeyboardInterrupt()])
def test_a_failure_between_the_two_renames_puts_the_old_run_back(tmp_path, monkeypatch, error):
    write(tmp_path / "run", OLD)
    rename = folder.Path.rename
    calls = []

    def second_fails(self, target):
        calls.append(target)
        if len(calls) == 2:
            raise error
        return rename(self, target)

    monkeypatch.setattr(folder.Path, "rename", second_fails)
    with pytest.raises((ArtifactError, KeyboardInterrupt)):
        write(tmp_path / "run", NEW, overwrite=True)
    monkeypatch.undo()
    assert len(calls) == 3
    check_untouched(tmp_path / "run")


def test_the_old_run_that_cannot_be_removed_is_no_failed_writing(tmp_path, monkeypatch):
    """The new run is complete and in its place by then; "nothing was kept" would be untrue."""
    write(tmp_path / "run", OLD)
    rmtree = folder.shutil.rmtree

    def stubborn(path, ignore_errors=False):
        if str(path).endswith(".old") and not ignore_errors:
            raise PermissionError(errno.EACCES, "Permission denied")
        rmtree(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(folder.shutil, "rmtree", stubborn)
    write(tmp_path / "run", NEW, overwrite=True)
    assert list(read_run(tmp_path / "run").tensors()) == ["new"]


def test_save_failing_inside_safetensors(tmp_path, monkeypatch):
    def refuse(*args):
        raise folder.SafetensorError("Error while serializing: I/O error")

    monkeypatch.setattr(folder, "save_file", refuse)
    with pytest.raises(ArtifactError, match=r"run could not be written: .*I/O error\. Nothing was"):
        write(tmp_path / "run", NEW)
    assert list(tmp_path.iterdir()) == []
