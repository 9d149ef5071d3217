# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The integer product of oneDNN: uint8 rows times an int8 weight, accumulated in int32.

The kernel takes one scale and zero point for all rows; where every row has its own, accumulators
come out as float32. With oneDNN 3.12 on AVX512-VNNI it agrees with ``ExactProduct`` bit for bit,
but for the last bit of a GELU of very few values.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from qkit.errors import ModelError
from qkit.nn.integers import IntegerWeight
from qkit.nn.operand import Move, Operand
from qkit.nn.product import ExactProduct, Finish


class Gemm(ExactProduct):
    """A weight packed for the kernel, with its bias."""

    def __init__(self, weight: IntegerWeight, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        self.zeros = torch.zeros(self.outer, dtype=torch.int64)

    def moved(self, fn: Move) -> Self:
        """The same on another device, as ``nn.Module.to`` asks for.

        Raises:
            ModelError: the packed weight would leave the CPU.
        """
        if fn(self.zeros[:0]).device.type != "cpu":
            message = (
                "the weights of an int8 model are packed for the CPU. Load the run with "
                "device='cuda' instead of moving it."
            )
            raise ModelError(message)
        return self

    @staticmethod
    def _pack(values: Tensor) -> Tensor:
        """The kernel ignores strides: anything but contiguous rows would be read wrongly."""
        packed: Tensor = torch.ops.onednn.qlinear_prepack(values.contiguous(), None)
        return packed

    def _run(self, operand: Operand, finish: Finish) -> Tensor:
        target = finish.target
        to_scale, to_zero = (1.0, 0) if target is None else target[:2]
        result: Tensor = torch.ops.onednn.qlinear_pointwise(
            operand.values.contiguous(),
            finish.scale,
            operand.zero,
            self.packed,
            self.scale,
            self.zeros,
            finish.bias,
            to_scale,
            to_zero,
            torch.float32 if target is None else torch.uint8,
            finish.activation,
            [],
            "none",
        )
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Itself: nothing in it ever changes, and the packed weight has no storage to copy."""
        return self

    def __reduce__(self) -> str:
        """Refuse to be pickled.

        Raises:
            ModelError: always.
        """
        message = "an int8 model cannot be pickled. Load it from its run folder again."
        raise ModelError(message)
