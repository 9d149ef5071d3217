# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The tiny model calibrated at 4 bits, with its calibration pairs."""

import pytest

from qkit.artifact.folder import read_run
from qkit.pipeline.inputs import open_calibration
from qkit.pipeline.search import explore as exploring
from qkit.pipeline.teacher import load_teacher


@pytest.fixture(scope="module")
def run(save_run):
    """A run that tests only read."""
    return save_run()


@pytest.fixture
def student(run):
    """Its float model with its points."""
    return load_teacher(read_run(run))


@pytest.fixture
def batches(shapes, student):
    """Six pairs in batches of four and two."""
    data = open_calibration(f"captions:{shapes}/captions.csv", 6, 0, skip_bad=False)
    return list(data.batches(student.clip, 4))


class Stopped(Exception):
    """In the place of Ctrl-C."""


def stop_after(monkeypatch, trials):
    """Let a search end after some trials; the choices that were tried."""
    tried, try_bits = [], exploring.try_bits

    def counted(bits, *rest):
        if len(tried) == trials:
            raise Stopped
        tried.append(str(bits))
        return try_bits(bits, *rest)

    monkeypatch.setattr(exploring, "try_bits", counted)
    return tried
