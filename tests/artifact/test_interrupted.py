# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Whatever interrupts the writing leaves the place as it was."""

import errno

import pytest
import torch

from qkit.artifact import folder
from qkit.artifact.folder import read_run, update_report, write_run
from qkit.errors import ArtifactError

OLD, NEW = {"old": torch.zeros(3)}, {"new": torch.ones(3)}
TARGETS = ["save_file", "_sha256", "write_json", "_move_into_place"]


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


def fail_while_writing(monkeypatch, error):
    """Let half of the file be written and then fail."""

    def half(path, content):
        path.write_text('{"la')
        raise error

    monkeypatch.setattr(folder, "write_json", half)


def test_a_report_is_replaced_and_nothing_else(tmp_path):
    run = tmp_path / "run"
    write(run, OLD)
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    update_report(run, {"label": "new"})
    assert read_run(run).report == {"label": "new"}
    after = {file.name: file.read_bytes() for file in run.iterdir()}
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {"report.json"}


@pytest.mark.parametrize("error", [full_disk(), KeyboardInterrupt()])
def test_a_report_that_cannot_be_replaced_stays_as_it_was(tmp_path, monkeypatch, error):
    run = tmp_path / "run"
    write_run(run, OLD, {}, {"label": "old"})
    names = {file.name for file in run.iterdir()}
    fail_while_writing(monkeypatch, error)
    fact = r"^.*/run/report.json could not be written: No space left on device\. Make.*|^$"
    with pytest.raises((ArtifactError, KeyboardInterrupt), match=fact):
        update_report(run, {"label": "new"})
    assert read_run(run).report["label"] == "old"
    assert {file.name for file in run.iterdir()} == names


def test_a_failure_of_the_very_last_step_leaves_the_old_report(tmp_path, monkeypatch):
    run = tmp_path / "run"
    write_run(run, OLD, {}, {"label": "old"})

    def refuse(self, target):
        raise full_disk()

    monkeypatch.setattr(folder.Path, "replace", refuse)
    with pytest.raises(ArtifactError, match="could not be written"):
        update_report(run, {"label": "new"})
    assert read_run(run).report["label"] == "old"
    assert not list(run.glob(".*"))


def test_a_read_only_disk_is_an_error_in_one_line(tmp_path, monkeypatch):
    """There even the removal of a file that does not exist is refused."""

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(folder, "write_json", refuse)
    monkeypatch.setattr(folder.Path, "unlink", refuse)
    with pytest.raises(ArtifactError, match=r"Read-only file system\. Make the folder writable"):
        update_report(tmp_path, {})


def test_a_run_that_was_removed_meanwhile_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"gone/report.json could not be written: No such file"):
        update_report(tmp_path / "gone", {})
