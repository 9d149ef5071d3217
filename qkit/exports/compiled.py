# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Towers compiled ahead of time by torch's AOTInductor, int8 products on oneDNN's kernels."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qkit.errors import ExportError
from qkit.exports.optional import torchs_own_warnings
from qkit.exports.towers import Signature, example, open_dims

KERNELS = ("aoti_torch_cpu__qlinear_pointwise_tensor(", "aoti_torch_cpu__qconv_pointwise_tensor(")
WEIGHTS = "dequantize_per_channel"


def check_compiler() -> None:
    """Refuse a machine that cannot compile.

    Raises:
        ExportError: there is no C++ compiler.
    """
    compiler = os.environ.get("CXX", "g++")  # as inductor chooses it
    if shutil.which(compiler) is None:
        message = (
            f"a compiled export needs a C++ compiler, and there is no {compiler!r}. Install one "
            "(apt-get install g++), or name one by the environment variable CXX."
        )
        raise ExportError(message)


def write_compiled(tower: nn.Module, signature: Signature, path: Path, *, any_length: bool) -> int:
    """Compile one tower, its batch size open, into a package.

    Args:
        tower: rewritten (see ``exports.rewrite``).
        signature: of the tower.
        path: file to write (.pt2).
        any_length: texts may be shorter than the context.

    Returns:
        layers in the graph whose weight is of integers.

    Raises:
        ExportError: torch cannot trace or compile the tower.
    """
    dims = (open_dims(signature, any_length=any_length),)
    try:
        with torchs_own_warnings(), torch.no_grad():
            program = torch.export.export(
                tower, (example(signature, any_length=any_length),), dynamic_shapes=dims
            )
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs={"freezing": True}
            )
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        message = (
            f"torch cannot compile the {signature.output}: {lines[0][:200].rstrip('.:')}. "
            "Use --format onnx."
        )
        raise ExportError(message) from error
    return sum(WEIGHTS in str(node.target) for node in program.graph.nodes)


class CompiledTower:
    """A compiled tower. It runs on as many threads as torch has.

    Attributes:
        integer_products: calls of int8 kernels in its code.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Load a package.

        Raises:
            ExportError: it cannot be loaded here.
        """
        del threads  # torch's own
        try:
            self._run: Any = torch._inductor.aoti_load_package(str(path))
        except RuntimeError as error:
            message = f"{path} cannot be loaded by this torch or machine. Export it again here."
            raise ExportError(message) from error
        self.integer_products = _kernel_calls(path)

    def __call__(self, x: Tensor) -> Tensor:
        """Features ``(N, dim)`` of pixels or tokens."""
        features: Tensor = self._run(x.contiguous())  # it takes no notice of strides
        return features


def _kernel_calls(path: Path) -> int:
    """How often the generated code, which the package holds, calls an int8 kernel."""
    with zipfile.ZipFile(path) as package:
        names = [name for name in package.namelist() if name.endswith(".wrapper.cpp")]
        code = "".join(package.read(name).decode() for name in names)
    return sum(code.count(kernel) for kernel in KERNELS)
