# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Few-bit weights packed two to a byte in an ONNX graph.

Torch has no tensors of 4 bits, so weights leave it as int8. Here those whose values fit into 4 bits
become INT4 and a Cast to int8 behind it; those with at most 16 different values, whatever these
are (a normal grid's), become UINT4 codes and a look-up. Backends fold either into int8 weights when
they load the file, and find the QuantizeLinear form that they know.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qkit.exports.optional import require

LEAST = 256  # values: smaller tensors gain nothing


def pack_weights(model: Any) -> int:
    """Pack the int8 initializers of an ``onnx_ir.Model`` that 4 bits can hold; how many."""
    graph = model.graph
    found = [v for v in graph.initializers.values() if _packable(v)]
    for value in found:
        _pack(graph, value)
    return len(found)


def _packable(value: Any) -> bool:
    if value.dtype is None or value.dtype.name != "INT8" or value.const_value.size < LEAST:
        return False
    counts = np.bincount(value.const_value.numpy().reshape(-1).view(np.uint8), minlength=256)
    return int((counts > 0).sum()) <= 16


def _pack(graph: Any, value: Any) -> None:
    """Put a packed initializer, and what makes int8 of it, in the place of ``value``."""
    ir: Any = require("onnx_ir", "an ONNX export")
    name, values = value.name, value.const_value.numpy()
    levels = np.unique(values)
    uses = list(value.uses())
    if levels[0] >= -8 and levels[-1] <= 7:
        packed = _initializer(graph, f"{name}.int4", values, ir.DataType.INT4)
        nodes = [ir.node("Cast", [packed], {"to": ir.DataType.INT8})]
    else:
        codes = np.searchsorted(levels, values)
        packed = _initializer(graph, f"{name}.codes", codes, ir.DataType.UINT4)
        table = _initializer(graph, f"{name}.levels", levels, ir.DataType.INT8)
        cast = ir.node("Cast", [packed], {"to": ir.DataType.INT32})
        nodes = [cast, ir.node("Gather", [table, cast.outputs[0]], {"axis": 0})]
    made = nodes[-1].outputs[0]
    made.name, made.dtype, made.shape = f"{name}.int8", ir.DataType.INT8, value.shape
    graph.insert_before(graph[0], nodes)
    for node, index in uses:
        node.replace_input_with(index, made)
    graph.initializers.pop(name)


def _initializer(graph: Any, name: str, values: Any, dtype: Any) -> Any:
    ir: Any = require("onnx_ir", "an ONNX export")
    tensor = ir.Tensor(values.astype(dtype.numpy()), dtype=dtype, name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
