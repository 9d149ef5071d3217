# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Every mistake in asking for a report gets one line, and writes nothing."""

import json
import shutil

import pytest

from tests.cli.conftest import one_line_error


@pytest.fixture(scope="module")
def run(save_run):
    """A run that tests only read."""
    return save_run()


@pytest.fixture(scope="module")
def stored(run):
    return json.loads((run / "report.json").read_text())


@pytest.mark.parametrize(
    ("flag", "parts"),
    [
        ("--tower=imge", ("unknown tower 'imge'", "Did you mean 'image'?", "image, text")),
        ("--kind=line", ("unknown kind 'line'", "Did you mean 'linear'?", "projection")),
        ("--sort=clips", ("unknown sort 'clips'", "Did you mean 'clip'?", "sensitivity")),
        ("--layer=nothing.*", ("no layer matches --layer nothing.*",)),
        ("--sort=sensitivity", ("not measured yet", "--sensitivity")),
        ("--blocks", ("W4A4 attn8, minmax, which searched no blocks", "--method entropy")),
        ("--data=demo:pairs", ("--data needs an analysis", "--parts")),
        ("--model=demo", ("--model needs an analysis",)),
        ("--refresh", ("--refresh needs an analysis",)),
        ("--html=/", ("/ cannot be written", "Is a directory")),
        ("--html=no/where.html", ("no/where.html cannot be written", "No such file")),
    ],
)
def test_mistakes_are_one_line(qkit, run, flag, parts):
    result = qkit("report", run, flag)
    one_line_error(result, *parts)
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ('{"label": "W4', ("damaged", "report.json cannot be read")),
        ('{"label": "W4A4"}', ("layout 1", "Calibrate again")),
        ('{"version": 99}', ("layout 99", "Upgrade qkit-clip")),
        ('{"version": 2, "label": "W4A4"}', ("layout 2", "Calibrate again")),
        ('{"version": 3, "label": "W4A4"}', ("damaged", "Calibrate again")),
        (lambda report: report["layers"].append(3), ("damaged",)),
        (lambda report: report["layers"][3].pop("cause"), None),
        (lambda report: report["layers"][3].pop("cosine"), ("damaged", "cosine")),
        (lambda report: report["blocks"][0].update(index="x"), ("damaged", "index")),
        (lambda report: report.update(extra=1), ("damaged", "extra")),
    ],
)
def test_damaged_and_old_reports(qkit, run, stored, tmp_path, content, parts):
    path = shutil.copytree(run, tmp_path / "run")
    if not isinstance(content, str):
        report = json.loads(json.dumps(stored))
        content(report)
        content = json.dumps(report)
    (path / "report.json").write_text(content)
    for flags in ([], ["--json"], [f"--html={tmp_path / 'page.html'}"], ["--space"]):
        if parts is None:
            assert qkit("report", path).exit_code == 0
        else:
            one_line_error(qkit("report", path, *flags), *parts)
            assert not (tmp_path / "page.html").exists()


def test_a_missing_run(qkit, tmp_path):
    for flags in ([], ["--space"]):
        one_line_error(qkit("report", tmp_path / "none", *flags), "none is no run folder")
