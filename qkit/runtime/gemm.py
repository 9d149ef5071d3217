# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The integer product: uint8 rows times an int8 weight, accumulated in int32, and what follows.

oneDNN's kernel takes one scale and zero point for all rows. Where every row has its own, the
accumulators come out as float32 and the rest is done behind it:

    y = scale_row * (A * scale_out - excess_row * sums_out) + bias

with the accumulator A of the kernel's zero point and the row sums of the weight.

An ``ExactGemm`` computes the same in floats, so few integers at once that their sums are exact, and
then in the kernel's order: ``A * scale * scale_out + bias``, every product rounded to float32. With
oneDNN 3.12 on AVX512-VNNI the two agree bit for bit, but for the last bit of a GELU of very few
values.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from qkit.errors import ModelError
from qkit.runtime.operands import Move, Operand
from qkit.runtime.weights import IntegerWeight

WHOLE = 512  # products of 9 and 8 bits whose sum is an integer that float32 holds


class Requantized(NamedTuple):
    """An output in integers: ``value / scale + zero``, rounded, within 0 and ``largest``."""

    scale: float
    zero: int
    largest: int


class Gemm:
    """A weight packed for the kernel, with its bias."""

    def __init__(self, weight: IntegerWeight, bias: Tensor | None) -> None:
        values, self.scale = weight
        self.packed = self._pack(values)
        self.zeros = torch.zeros(len(values), dtype=torch.int64)
        self.bias = bias
        self.inner = values.shape[1]

    @cached_property
    def sums(self) -> Tensor:
        """Row sums of the weight, ``(out,)``; only rows with zero points of their own need them."""
        one = torch.ones(1, self.inner, dtype=torch.uint8, device=self.zeros.device)
        return self._run(Operand(one, 1.0, 0), 1.0, None, None, "none")[0]

    def __call__(self, operand: Operand, activation: str = "none") -> Tensor:
        """``(rows, in)`` to float32 ``(rows, out)``, ``activation`` applied ("none" or "gelu")."""
        if isinstance(operand.scale, float):
            return self._run(operand, operand.scale, self.bias, None, activation)
        result = self._run(operand, 1.0, None, None, "none")
        if operand.excess is not None:
            result.addr_(operand.excess, self.sums, alpha=-1)
        if self.bias is None:
            result.mul_(operand.scale)
        else:
            torch.addcmul(self.bias, result, operand.scale, out=result)
        return result if activation == "none" else torch.nn.functional.gelu(result)

    def requantized(self, operand: Operand, target: Requantized, activation: str) -> Operand:
        """The same in integers, rounded in the kernel; ``operand`` has one scale for all rows."""
        assert isinstance(operand.scale, float)
        values = self._run(operand, operand.scale, self.bias, target, activation)
        if target.largest < 255:
            values.clamp_(max=target.largest)
        return Operand(values, target.scale, target.zero)

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

    def _run(
        self,
        operand: Operand,
        scale: float,
        bias: Tensor | None,
        target: Requantized | None,
        activation: str,
    ) -> Tensor:
        to_scale, to_zero = (1.0, 0) if target is None else target[:2]
        result: Tensor = torch.ops.onednn.qlinear_pointwise(
            operand.values.contiguous(),
            scale,
            operand.zero,
            self.packed,
            self.scale,
            self.zeros,
            bias,
            to_scale,
            to_zero,
            torch.float32 if target is None else torch.uint8,
            activation,
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


class ExactGemm(Gemm):
    """The same without a kernel: bit for bit, on any machine, at the speed of floats."""

    @staticmethod
    def _pack(values: Tensor) -> Tensor:
        return values

    def moved(self, fn: Move) -> Self:
        """The same on another device, as ``nn.Module.to`` asks for."""
        packed, bias = fn(self.packed), None if self.bias is None else fn(self.bias)
        changed = {"packed": packed, "scale": fn(self.scale), "zeros": fn(self.zeros), "bias": bias}
        kept = {name: v for name, v in vars(self).items() if not name.endswith("sums")}
        other = object.__new__(type(self))
        vars(other).update(kept | changed)
        return other

    def _run(
        self,
        operand: Operand,
        scale: float,
        bias: Tensor | None,
        target: Requantized | None,
        activation: str,
    ) -> Tensor:
        result = self._accumulated(operand).float() * torch.tensor(scale) * self.scale
        if bias is not None:
            result += bias
        if activation == "gelu":
            result = torch.nn.functional.gelu(result)
        if target is None:
            return result
        return (result / target.scale).round_().add_(target.zero).clamp_(0, 255).to(torch.uint8)

    def _accumulated(self, operand: Operand) -> Tensor:
        """The sums, exact, ``(rows, out)``, of any type."""
        levels = operand.values.float() - operand.zero
        parts = zip(levels.split(WHOLE, 1), self.packed.float().split(WHOLE, 1), strict=True)
        return torch.stack([(rows @ weight.T).double() for rows, weight in parts]).sum(0)
