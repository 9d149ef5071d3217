# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Run the command line in this process."""

import shutil
from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from qkit.cli import app


@pytest.fixture
def qkit() -> Callable[..., Result]:
    """``qkit("report", path)`` runs the command and returns exit code and output."""

    def run(*args: object) -> Result:
        return CliRunner().invoke(app, [str(arg) for arg in args])

    return run


@pytest.fixture
def calibrate_args(tiny_folder, shapes) -> list[str]:
    """A quick calibration of the tiny model."""
    return [
        "calibrate",
        f"--model=local-dir:{tiny_folder}",
        f"--data=captions:{shapes / 'captions.csv'}",
        "--samples=6",
        "--batch-size=3",
    ]


@pytest.fixture(scope="session")
def saved(save_run):
    """A run at 4 bits that nobody has analysed."""
    return save_run()


@pytest.fixture
def run(saved, tmp_path):
    """A copy of it to write to."""
    return shutil.copytree(saved, tmp_path / "run")


@pytest.fixture
def show(qkit, run):
    """Standard output of ``qkit report`` on the fixture ``run``, with some flags."""

    def show(*flags):
        result = qkit("report", run, *flags)
        assert result.exit_code == 0, result.output
        return result.stdout

    return show


def one_line_error(result: Result, *parts: str) -> None:
    """Assert an exit code, no traceback, and one line on stderr that holds all ``parts``."""
    assert result.exit_code not in (0, None)
    assert "Traceback" not in result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, result.stderr
    for part in parts:
        assert part in lines[0]
