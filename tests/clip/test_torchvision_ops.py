# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Declaring the two operators that open_clip's import needs, and only where they are missing."""

import subprocess
import sys

import torch

from qkit.clip import torchvision_ops
from qkit.clip.torchvision_ops import SCHEMAS, declare_missing


def test_open_clip_can_be_imported_after_any_module_of_the_package():
    code = "import qkit.clip.layout, open_clip; print(len(open_clip.list_models()))"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100


def test_both_operators_are_known_here():
    for name in SCHEMAS:
        assert hasattr(torch.ops.torchvision, name)


def test_nothing_is_declared_where_the_extension_loads(monkeypatch):
    monkeypatch.setattr(torchvision_ops, "extension_loads", lambda: True)
    assert declare_missing() is None


def test_declaring_again_does_no_harm(monkeypatch):
    monkeypatch.setattr(torchvision_ops, "extension_loads", lambda: False)
    assert declare_missing() is not None
    assert hasattr(torch.ops.torchvision, "nms")
