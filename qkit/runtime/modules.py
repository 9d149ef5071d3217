# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Layers that multiply in integers; each takes and gives float32 like the layer it stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkit.errors import ModelError
from qkit.nn.attention import QuantSDPA
from qkit.nn.conv import QuantConv2d, cut_patches
from qkit.nn.integers import IntegerWeight
from qkit.nn.multihead import QuantMultiheadAttention
from qkit.nn.operand import Rounder
from qkit.nn.product import ExactProduct, Requantized
from qkit.nn.rounders import StaticRounder
from qkit.runtime.weight_only import FloatRows

BLOCK = 256  # rows whose float values stay in the cache


def in_blocks(rows: Tensor, work: Callable[[Tensor], Tensor], whole: bool) -> Tensor:
    """``work(rows)``, in even parts unless they are to stay ``whole``.

    Scales of rows are applied behind the kernel, in several passes over its float output. One scale
    for all is applied within it, and parts gain nothing; neither do they on a CUDA device.
    """
    parts = -(-len(rows) // BLOCK)
    if parts <= 1 or whole or rows.is_cuda:
        return work(rows)
    return torch.cat([work(part) for part in rows.chunk(parts)])


class _Multiplying(nn.Module):
    """A module with an integer product, which is no module and moves along with it."""

    rounder: Rounder
    gemm: ExactProduct

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move everything.

        Raises:
            ModelError: floats would leave float32, or a packed weight the CPU.
        """
        moved = fn(torch.zeros(1))
        if moved.dtype != torch.float32:
            message = (
                "an integer model computes in float32 between its integer layers, not in "
                f"{moved.dtype}. Leave it as it was loaded."
            )
            raise ModelError(message)
        self.gemm = self.gemm.moved(fn)
        self.rounder.move(fn)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


class IntLinear(_Multiplying):
    """Stands for ``QuantLinear``, and for ``QuantProjection``: it answers ``x @ projection``, too.

    Attributes:
        int8_original_dtype: where open_clip looks for the type to compute in.
    """

    int8_original_dtype = torch.float32

    def __init__(self, rounder: Rounder, gemm: ExactProduct) -> None:
        super().__init__()
        self.rounder = rounder
        self.gemm = gemm

    def forward(self, x: Tensor, activation: str = "none") -> Tensor:
        """``(..., in)`` to ``(..., out)``, ``activation`` ("none" or "gelu") applied."""

        def product(rows: Tensor) -> Tensor:
            return self.gemm(self.rounder(rows), activation)

        whole = isinstance(self.rounder, StaticRounder | FloatRows)
        return in_blocks(x.flatten(0, -2), product, whole).view(*x.shape[:-1], -1)

    def __rmatmul__(self, x: Tensor) -> Tensor:
        result: Tensor = self(x)
        return result


class IntMlp(nn.Module):
    """Two linears around an exact GELU, which the first one's kernel applies.

    Where the second one's input has one fixed scale, what passes between them are integers.
    """

    def __init__(self, c_fc: IntLinear, c_proj: IntLinear) -> None:
        super().__init__()
        self.c_fc = c_fc
        self.c_proj = c_proj
        self.between = _between(c_fc, c_proj)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., dim)`` to ``(..., dim)``."""
        whole = self.between is not None or isinstance(self.c_proj.rounder, FloatRows)
        return in_blocks(x.flatten(0, -2), self._rows, whole).view(*x.shape[:-1], -1)

    def _rows(self, rows: Tensor) -> Tensor:
        operand, fc = self.c_fc.rounder(rows), self.c_fc.gemm
        if self.between is None:
            hidden = self.c_proj.rounder(fc(operand, "gelu"))
        else:
            hidden = fc.requantized(operand, self.between, "gelu")
        result: Tensor = self.c_proj.gemm(hidden)
        return result


def _between(first: IntLinear, second: IntLinear) -> Requantized | None:
    """How the first linear's kernel rounds for the second; None where it cannot."""
    target = second.rounder
    if not isinstance(first.rounder, StaticRounder) or not isinstance(target, StaticRounder):
        return None
    if target.point.gain is not None or target.point.transform is not None:
        return None
    return Requantized(target.scale, target.zero, target.largest)


class IntAttention(_Multiplying, QuantMultiheadAttention):
    """Self-attention whose q, k and v come from one product; the core stays as it was."""

    @classmethod
    def of(
        cls, attention: QuantMultiheadAttention, rounder: Rounder, gemm: ExactProduct
    ) -> IntAttention:
        """Take over ``attention``; ``gemm`` gives q, k and v side by side."""
        new = cls(attention.num_heads, False, attention.dropout, attention.batch_first)
        new.sdpa, new.out_proj = attention.sdpa, attention.out_proj
        new.rounder, new.gemm = rounder, gemm
        return new.train(attention.training)

    sdpa: QuantSDPA

    def project(
        self, query: Tensor, context: Tensor, queries: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Input ``(N, L, dim)`` to q, k and v, each ``(N, heads, L, d)``.

        Raises:
            ModelError: the context is another tensor than the query.
        """
        if context is not query:
            message = (
                "this attention was calibrated to attend to its own input, and is given another "
                "one. Call it with key and value as the query."
            )
            raise ModelError(message)
        rows = self.gemm(self.rounder(query.flatten(0, 1)))
        parts = rows.view(*query.shape[:2], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind()
        return q[:, :, :queries], k, v


class IntPatches(_Multiplying):
    """A convolution whose windows do not overlap: a product of unfolded patches."""

    def __init__(self, conv: QuantConv2d, rounder: Rounder, gemm: ExactProduct) -> None:
        super().__init__()
        self.kernel_size = conv.kernel_size
        self.rounder = rounder
        self.gemm = gemm

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, out, H', W')``; what no window reads is left out."""
        patches = cut_patches(x, self.kernel_size)
        rows = self.gemm(self.rounder(patches.flatten(0, 2)))
        return rows.view(*patches.shape[:3], -1).permute(0, 3, 1, 2)


class IntEmbedding(nn.Module):
    """A token table of int8 with one scale a row; only rows that are looked up become float."""

    def __init__(self, weight: IntegerWeight) -> None:
        super().__init__()
        self.register_buffer("values", weight.values)
        self.register_buffer("scale", weight.scale)
        self.values: Tensor
        self.scale: Tensor

    def forward(self, tokens: Tensor) -> Tensor:
        """``(...)`` token numbers to ``(..., features)``."""
        rows = F.embedding(tokens, self.values).to(self.scale.dtype)
        scaled: Tensor = rows.mul_(self.scale[tokens].unsqueeze(-1))
        return scaled
