# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Towers as ONNX files, and ONNX Runtime to run them."""

from __future__ import annotations

import tempfile
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qkit.errors import ExportError
from qkit.exports.operators import OPSET
from qkit.exports.optional import require, torchs_own_warnings
from qkit.exports.packing import pack_weights
from qkit.exports.towers import Signature, example, open_dims

PACKAGES = ("onnx", "onnx_ir", "onnxscript")
INTEGER = ("MatMulIntegerToFloat", "MatMulInteger", "QLinearMatMul", "QGemm", "QLinearConv")
QUIET = 3  # errors only: it warns that an optimized graph belongs to this machine


def write_onnx(tower: nn.Module, signature: Signature, path: Path, *, any_length: bool) -> int:
    """Write one tower, its batch size open.

    Args:
        tower: rewritten (see ``exports.rewrite``).
        signature: of the tower.
        path: file to write.
        any_length: texts may be shorter than the context.

    Returns:
        products in the file whose two operands are integers.

    Raises:
        ExportError: a package is missing, or torch's exporter cannot write the tower.
    """
    for package in PACKAGES:
        require(package, "an ONNX export")
    dims = open_dims(signature, any_length=any_length)
    try:
        with torchs_own_warnings(), torch.no_grad():
            program = torch.onnx.export(
                tower,
                (example(signature, any_length=any_length),),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=(dims,),
                input_names=[signature.input],
                output_names=[signature.output],
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        message = (
            f"the {signature.output} cannot be written as ONNX: {_cause(error)}. "
            "Leave the layers concerned in float with an ignore rule."
        )
        raise ExportError(message) from error
    assert program is not None
    pack_weights(program.model)
    _strip(program.model)
    program.save(path)
    return _integer_products(program.model.graph)


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(".:")


def _strip(model: Any) -> None:
    """Take out what torch notes of its source: much of a small file, and paths of this machine."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.metadata_props.clear()


def _integer_products(graph: Any) -> int:
    """MatMuls and convolutions of which both operands come out of a DequantizeLinear."""
    products = [node for node in graph if node.op_type in ("MatMul", "Conv")]
    return sum(all(_dequantized(value) for value in node.inputs[:2]) for node in products)


def _dequantized(value: Any) -> bool:
    maker = value.producer()
    return maker is not None and maker.op_type == "DequantizeLinear"


class OnnxTower:
    """A tower in ONNX Runtime, on the CPU."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Load a file.

        Raises:
            ExportError: ONNX Runtime is missing, or cannot load it.
        """
        self._path = path
        options = _options(threads or torch.get_num_threads())
        try:
            self._session = _session(path, options)
        except Exception as error:  # its errors share no class of their own
            message = f"ONNX Runtime cannot load {path}: {_cause(error)}. Export again."
            raise ExportError(message) from error

    def __call__(self, x: Tensor) -> Tensor:
        """Features ``(N, dim)`` of pixels or tokens."""
        name = self._session.get_inputs()[0].name
        return torch.from_numpy(self._session.run(None, {name: x.numpy()})[0])

    @cached_property
    def integer_products(self) -> int:
        """Products on int8 kernels, as the graph tells that it made of the file."""
        with tempfile.TemporaryDirectory() as folder:
            options = _options(1)
            options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
            _session(self._path, options)
            kinds = _kinds(Path(options.optimized_model_filepath))
        return sum(kinds[kind] for kind in INTEGER)


def _options(threads: int) -> Any:
    runtime: Any = require("onnxruntime", "running an ONNX export")
    options = runtime.SessionOptions()
    options.log_severity_level = QUIET
    options.intra_op_num_threads = threads
    # threads that wait do not spin, which would cost others their processor
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _session(path: Path, options: Any) -> Any:
    runtime: Any = require("onnxruntime", "running an ONNX export")
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _kinds(path: Path) -> Counter[str]:
    """How many nodes of each kind a file has."""
    onnx: Any = require("onnx", "running an ONNX export")
    return Counter(node.op_type for node in onnx.load(str(path)).graph.node)
