# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Exports of the tiny model by several ways to round, and its simulated model; made once each."""

from importlib.util import find_spec
from types import SimpleNamespace

import pytest

import qkit

WAYS = {
    "W8A8 static": {"bits": 8},
    "W4A4 static": {"bits": 4},
    "w4a4-fast": {"bits": None, "method": None, "recipe": "w4a4-fast"},
}


@pytest.fixture(autouse=True)
def _installed():
    """Looked for, not imported: the process of the other tests stays without them."""
    for package in ("onnxruntime", "onnxscript", "openvino"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


@pytest.fixture(scope="session")
def exported(save_run, tmp_path_factory):
    """``exported("W8A8 static", "onnx")``: folder, report, and the run simulated."""
    made, runs = {}, {}

    def export(way, format):
        if way not in runs:
            few = qkit.Overrides(samples=6)
            runs[way] = save_run(**WAYS[way], overrides=few)
        if (way, format) not in made:
            out = tmp_path_factory.mktemp("exports") / "out"
            report = qkit.export(runs[way], format, out, samples=5)
            parts = {"path": runs[way], "out": out, "report": report}
            made[way, format] = SimpleNamespace(**parts, run=qkit.load(runs[way]))
        return made[way, format]

    return export
