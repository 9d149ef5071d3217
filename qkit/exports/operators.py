# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""How integers are spelled for whoever is to run them: the same graph in two dialects.

Backends look for a product between a quantize, two dequantizes and nothing else. ONNX Runtime and
OpenVINO know QuantizeLinear and DequantizeLinear, torch's inductor its own decomposed operators.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkit.exports.optional import torchs_own_warnings

OPSET = 21  # of ONNX: the first with 4-bit integers


class Grid(nn.Module):
    """One scale and one zero point, as numbers and as tensors ``()``.

    Attributes:
        step: the scale.
        offset: the zero point of uint8 values.
    """

    scale: Tensor
    zero: Tensor

    def __init__(self, step: float, offset: int) -> None:
        super().__init__()
        self.step, self.offset = step, offset
        self.register_buffer("scale", torch.tensor(step))
        self.register_buffer("zero", torch.tensor(offset, dtype=torch.uint8))


class Operators(Protocol):
    """A dialect.

    Attributes:
        attention: whether it has products of two tensors that are not known beforehand.
    """

    attention: ClassVar[bool]

    def quantize(self, x: Tensor, grid: Grid) -> Tensor:
        """``x`` rounded to uint8."""

    def dequantize(self, q: Tensor, grid: Grid) -> Tensor:
        """``(q - zero) * scale``, float32."""

    def weight(self, values: Tensor, scale: Tensor) -> Tensor:
        """int8 values ``(out, ...)`` times their scales ``(out,)``."""

    def arrange(self, values: Tensor) -> Tensor:
        """int8 values ``(out, in)`` as ``linear`` wants them."""

    def linear(self, x: Tensor, values: Tensor, scale: Tensor) -> Tensor:
        """A dequantized ``(..., in)`` times an arranged weight: ``(..., out)``."""


class OnnxOperators:
    """ONNX's operators, as torch's exporter writes them; outside an export they compute nothing."""

    attention: ClassVar[bool] = True

    def quantize(self, x: Tensor, grid: Grid) -> Tensor:
        """See ``Operators``."""
        return _onnx("QuantizeLinear", (x, grid.scale, grid.zero), torch.uint8)

    def dequantize(self, q: Tensor, grid: Grid) -> Tensor:
        """See ``Operators``."""
        return _onnx("DequantizeLinear", (q, grid.scale, grid.zero), torch.float32)

    def weight(self, values: Tensor, scale: Tensor) -> Tensor:
        """See ``Operators``."""
        return _onnx("DequantizeLinear", (values, scale), torch.float32, axis=0)

    def arrange(self, values: Tensor) -> Tensor:
        """See ``Operators``."""
        return values.t().contiguous()

    def linear(self, x: Tensor, values: Tensor, scale: Tensor) -> Tensor:
        """See ``Operators``."""
        return x @ _onnx("DequantizeLinear", (values, scale), torch.float32, axis=1)


def _onnx(name: str, inputs: tuple[Tensor, ...], dtype: torch.dtype, **attributes: Any) -> Tensor:
    shape = inputs[0].shape
    return torch.onnx.ops.symbolic(
        name, inputs, attributes, dtype=dtype, shape=shape, version=OPSET
    )


class KernelOperators:
    """Torch's operators, of which inductor makes oneDNN's int8 kernels; products have two axes."""

    attention: ClassVar[bool] = False

    def __init__(self) -> None:
        with torchs_own_warnings():
            import torch._inductor.compile_fx  # declares them
        self._ops: Any = torch.ops.quantized_decomposed

    def quantize(self, x: Tensor, grid: Grid) -> Tensor:
        """See ``Operators``."""
        rows = x.reshape(-1, x.shape[-1])
        q: Tensor = self._ops.quantize_per_tensor.default(rows, *_unsigned(grid))
        return q.view(x.shape)

    def dequantize(self, q: Tensor, grid: Grid) -> Tensor:
        """See ``Operators``."""
        x: Tensor = self._ops.dequantize_per_tensor.default(q, *_unsigned(grid))
        return x

    def weight(self, values: Tensor, scale: Tensor) -> Tensor:
        """See ``Operators``."""
        zeros = torch.zeros_like(scale, dtype=torch.int64)
        numbers = (0, -128, 127, torch.int8)
        weight: Tensor = self._ops.dequantize_per_channel.default(values, scale, zeros, *numbers)
        return weight

    def arrange(self, values: Tensor) -> Tensor:
        """See ``Operators``."""
        return values

    def linear(self, x: Tensor, values: Tensor, scale: Tensor) -> Tensor:
        """See ``Operators``."""
        return F.linear(x, self.weight(values, scale))


def _unsigned(grid: Grid) -> tuple[float, int, int, int, torch.dtype]:
    return grid.step, grid.offset, 0, 255, torch.uint8
