# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The integer product where oneDNN's kernel is not: on CUDA devices, and on any CPU.

``torch._int_mm`` multiplies signed bytes into int32, on CUDA by the tensor cores (cuBLASLt, which
wants sizes that divide by 8 and more than 16 rows). The zero point, which it does not know, joins
by the row sums of the weight: with v - 128 in the place of the unsigned v,

    sum (v - z) w = sum (v - 128) w + (128 - z) sum w
"""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from qkit.nn.operand import MIDDLE, Operand
from qkit.nn.product import ExactProduct

WIDTH = 8  # what sizes of operands divide by
ROWS = 32


class MatmulGemm(ExactProduct):
    """A weight for ``torch._int_mm``; the same bits as ``ExactProduct``."""

    @staticmethod
    def _pack(values: Tensor) -> Tensor:
        outer, inner = values.shape
        return F.pad(values, (0, -inner % WIDTH, 0, -outer % WIDTH)).contiguous()

    @cached_property
    def _weight_sums(self) -> Tensor:
        return self.packed.sum(1, dtype=torch.int32)

    def _accumulated(self, operand: Operand) -> Tensor:
        """The sums, ``(rows, out)`` in int32."""
        rows = operand.values.bitwise_xor(MIDDLE).view(torch.int8)
        more = max(ROWS - len(rows), -len(rows) % WIDTH)
        padded = F.pad(rows, (0, self.packed.shape[1] - self.inner, 0, more))
        sums: Tensor = torch._int_mm(padded, self.packed.t())
        sums += (MIDDLE - operand.zero) * self._weight_sums
        return sums[: len(rows), : self.outer]
