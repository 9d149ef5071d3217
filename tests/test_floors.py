# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Rules about the source that import-linter cannot state."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*ROOT.glob("qkit/**/*.py"), *ROOT.glob("calibrators/**/*.py")])
TORCH_AO = {"qkit/observers.py", "qkit/numerics.py"}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_torch_ao_stays_in_its_two_files_and_pickle_out(path):
    names = imported(path)
    uses_ao = any(name.startswith("torch.ao") for name in names)
    assert uses_ao == (str(path.relative_to(ROOT)) in TORCH_AO)
    assert "torch.load" not in path.read_text(encoding="utf-8")


def test_help_and_import_load_no_torch():
    code = (
        "import sys, qkit, qkit.cli; "
        "assert not {'torch', 'open_clip', 'numpy'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_files_stay_small():
    long = {str(p): n for p in SOURCES if (n := len(p.read_text().splitlines())) > 260}
    assert not long
