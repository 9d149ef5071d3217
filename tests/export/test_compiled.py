# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Packages of AOTInductor, run by torch alone."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import qkit
from qkit.errors import ExportError
from qkit.exports.compiled import CompiledTower, check_compiler
from qkit.runtime.kernels import missing_kernel

pytestmark = pytest.mark.backends

RUN = """
import sys, torch
tower = torch._inductor.aoti_load_package(sys.argv[1])
torch.save(tower(torch.load(sys.argv[2])), sys.argv[3])
assert "qkit" not in sys.modules and "open_clip" not in sys.modules
"""


def _compiles() -> bool:
    try:
        check_compiler()
    except ExportError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [None, "w4a4-fast"])
def test_packages_compute_what_the_run_does(save_run, tmp_path, pixels, tokens, recipe):
    if (missing := missing_kernel()) is not None:
        pytest.skip(missing)
    if not _compiles():
        pytest.skip("no C++ compiler")
    how = {"bits": 8} if recipe is None else {"bits": None, "method": None, "recipe": recipe}
    path = save_run(**how, overrides=qkit.Overrides(samples=6))
    report = qkit.export(path, "compiled", tmp_path / "out", samples=5)
    (proof,) = report.proofs
    for tower, patches in zip(proof.towers, (1, 0), strict=True):
        assert tower.integer_products == tower.products == 2 * 4 + 1 + patches
    assert set(report.reasons) == {
        "its two products are simulated in float: torch has no batched integer product"
    }
    model = qkit.load(path).model
    for tower, x in (("image", pixels), ("text", tokens)):
        torch.save(x, tmp_path / "x")
        files = [str(tmp_path / name) for name in (f"out/{tower}.pt2", "x", "y")]
        subprocess.run([sys.executable, "-W", "ignore", "-c", RUN, *files], check=True)
        with torch.no_grad():
            expected = getattr(model, f"encode_{tower}")(x)
        assert F.cosine_similarity(torch.load(tmp_path / "y"), expected).min() >= 0.9999


@pytest.mark.slow
def test_any_strides_and_any_length(save_run, tmp_path, tokens):
    if missing_kernel() is not None or not _compiles():
        pytest.skip("nothing to compile with, or for")
    path = save_run(bits=8, overrides=qkit.Overrides(samples=6))
    qkit.export(path, "compiled", tmp_path / "out", samples=5)
    tower = CompiledTower(tmp_path / "out" / "text.pt2")
    model = qkit.load(path).model
    with torch.no_grad():
        expected = model.encode_text(tokens)
    longest = int(tokens.argmax(1).max()) + 1
    for length in (longest, longest + 1, tokens.shape[1]):
        part = tokens[:, :length]
        assert part.is_contiguous() == (length == tokens.shape[1])
        assert F.cosine_similarity(tower(part), expected).min() >= 0.9999


def test_a_file_that_is_no_package(tmp_path):
    (tmp_path / "image.pt2").write_bytes(b"nothing")
    with pytest.raises(ExportError, match=r"cannot be loaded by this torch or machine"):
        CompiledTower(tmp_path / "image.pt2")
