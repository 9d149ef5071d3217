# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Distributions that somebody else might install, put on the import path for one test."""

import importlib
import sys

import pytest

GOOD = '''
from dataclasses import dataclass

from qkit.calibration.protocol import TensorCalibrator
from qkit.spec import Range


@dataclass(frozen=True)
class Half(TensorCalibrator):
    """Clips at a share of the full range."""

    share: float = 0.5

    def __post_init__(self):
        if self.share <= 0:
            raise ValueError(f"share = {self.share!r}. Use a positive number.")

    def choose_range(self, stats, spec):
        return Range(stats.min_val * self.share, stats.max_val * self.share)
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution with one module and its entry points of group qkit.calibrators."""
    modules = []

    def make(distribution, module, code, entries):
        site = tmp_path / distribution
        info = site / f"{distribution}-0.1.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(code)
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 0.1\n"
        (info / "METADATA").write_text(metadata)
        lines = [f"{name} = {target}" for name, target in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(["[qkit.calibrators]", *lines, ""]))
        monkeypatch.syspath_prepend(site)
        importlib.invalidate_caches()
        modules.append(module)
        return site

    yield make
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture
def half(install):
    """A working third-party calibrator called "half"."""
    module = "thirdparty_calibrator"
    install("thirdparty", module, GOOD, {"half": f"{module}:Half"})
    return module
