# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Towers in OpenVINO: made of ONNX files, kept in its own format."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qkit.errors import ExportError
from qkit.exports.onnx import write_onnx
from qkit.exports.optional import require
from qkit.exports.towers import Signature

PRODUCTS = ("FullyConnected", "MatMul", "Convolution")
BYTES = ("u8", "i8")


def write_openvino(tower: nn.Module, signature: Signature, path: Path, *, any_length: bool) -> int:
    """Write one tower in OpenVINO's format: ``path`` (.xml), and a .bin beside it.

    Takes, gives and raises what ``write_onnx`` does; OpenVINO may be missing or refuse, too.
    """
    openvino: Any = require("openvino", "an OpenVINO export")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"{path.stem}.onnx"
        products = write_onnx(tower, signature, source, any_length=any_length)
        try:
            # as it was read: what prepares a model to run would unpack its 4-bit weights
            model = openvino.Core().read_model(str(source))
            openvino.save_model(model, str(path), compress_to_fp16=False)
        except RuntimeError as error:
            cause = _last_line(error)
            message = f"OpenVINO cannot write the {signature.output}: {cause}. Use --format onnx."
            raise ExportError(message) from error
    return products


class OpenVinoTower:
    """A tower in OpenVINO on the CPU, float32 between its integer products.

    Attributes:
        integer_products: products that its kernels run in integers.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Load an .xml or .onnx file.

        Raises:
            ExportError: OpenVINO is missing, or cannot load it.
        """
        openvino: Any = require("openvino", "running an export in OpenVINO")
        options = {
            "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the CPU has it
        }
        try:
            self._compiled = openvino.Core().compile_model(str(path), "CPU", options)
        except RuntimeError as error:
            message = f"OpenVINO cannot load {path}: {_last_line(error)}. Export again."
            raise ExportError(message) from error
        self.integer_products = _integer_products(self._compiled)

    def __call__(self, x: Tensor) -> Tensor:
        """Features ``(N, dim)`` of pixels or tokens."""
        return torch.from_numpy(self._compiled([x.numpy()])[0].copy())


def _integer_products(compiled: Any) -> int:
    """Products that run on kernels for bytes, as the compiled graph tells."""
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    return sum(
        info["layerType"].astype(str) in PRODUCTS and info["runtimePrecision"].astype(str) in BYTES
        for info in infos
    )


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200].rstrip(".: ")
