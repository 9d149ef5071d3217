# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Layers of a model on its way to ONNX; each takes and gives what the layer it stands for does."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkit.nn.conv import cut_patches
from qkit.nn.multihead import QuantMultiheadAttention
from qkit.runtime.modules import IntAttention, IntEmbedding, IntPatches


class ExportLinear(nn.Module):
    """Rounds, then multiplies; answers ``x @ projection``, too.

    Attributes:
        int8_original_dtype: where open_clip looks for the type to compute in.
    """

    int8_original_dtype = torch.float32

    def __init__(self, quantizer: nn.Module, product: nn.Module) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` to ``(..., out)``."""
        result: Tensor = self.product(self.quantizer(x))
        return result

    def __rmatmul__(self, x: Tensor) -> Tensor:
        result: Tensor = self(x)
        return result


class ExportMlp(nn.Module):
    """Two linears around an exact GELU."""

    def __init__(self, c_fc: nn.Module, c_proj: nn.Module) -> None:
        super().__init__()
        self.c_fc = c_fc
        self.c_proj = c_proj

    def forward(self, x: Tensor) -> Tensor:
        """``(..., dim)`` to ``(..., dim)``."""
        result: Tensor = self.c_proj(F.gelu(self.c_fc(x)))
        return result


class ExportAttention(QuantMultiheadAttention):
    """Self-attention whose q, k and v come from one linear."""

    qkv: nn.Module

    @classmethod
    def of(cls, attention: IntAttention, qkv: nn.Module) -> ExportAttention:
        """Take over ``attention``; ``qkv`` gives q, k and v side by side."""
        new = cls(attention.num_heads, False, attention.dropout, attention.batch_first)
        new.sdpa, new.out_proj, new.qkv = attention.sdpa, attention.out_proj, qkv
        return new.train(attention.training)

    def project(
        self, query: Tensor, context: Tensor, queries: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Input ``(N, L, dim)`` to q, k and v, each ``(N, heads, L, d)``."""
        q, k, v = self.qkv(query).chunk(3, dim=-1)
        return self._split(q[:, :queries]), self._split(k), self._split(v)


class ExportPatches(nn.Module):
    """A convolution whose windows do not overlap: a linear on unfolded patches."""

    def __init__(self, patches: IntPatches, linear: nn.Module) -> None:
        super().__init__()
        self.kernel_size = patches.kernel_size
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, out, H', W')``; what no window reads is left out."""
        patches = cut_patches(x, self.kernel_size)
        rows: Tensor = self.linear(patches.flatten(1, 2))
        found: Tensor = rows.transpose(1, 2).unflatten(2, patches.shape[1:3])
        return found


class ExportEmbedding(nn.Module):
    """A token table of integers; only rows that are looked up become float."""

    values: Tensor
    scale: Tensor

    def __init__(self, table: IntEmbedding) -> None:
        super().__init__()
        self.register_buffer("values", table.values)
        self.register_buffer("scale", table.scale)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(...)`` token numbers to ``(..., features)``."""
        rows = F.embedding(tokens, self.values).to(torch.float32)
        return rows * F.embedding(tokens, self.scale.unsqueeze(-1))
