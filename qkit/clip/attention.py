# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""open_clip's own attention modules, taken apart like ``nn.MultiheadAttention``."""

from __future__ import annotations

from typing import Any, Self

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import AttentionPool2d
from open_clip.transformer import Attention, AttentionalPooler
from torch import Tensor, nn

from qkit.nn.attention import ExplicitAttention, QuantSDPA, additive_mask
from qkit.nn.linear import QuantLinear
from qkit.nn.multihead import QuantMultiheadAttention, join_in_proj, split_in_proj


class QuantAttentionPool(ExplicitAttention):
    """The pooling head of CLIP's ResNets: the mean token attends to all positions.

    open_clip hands the four layers' weights to a functional, so their ``forward`` never runs; and
    it computes every query but keeps the first, which is all that is computed here.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__(num_heads)
        self.positional_embedding: nn.Parameter
        self.c_proj: QuantLinear

    @classmethod
    def from_float(cls, pool: nn.Module) -> Self:
        """Take over the parameters of an ``AttentionPool2d``."""
        source: Any = pool
        new = cls(source.num_heads)
        new.positional_embedding = source.positional_embedding
        new.k_proj = QuantLinear.from_float(source.k_proj)
        new.q_proj = QuantLinear.from_float(source.q_proj)
        new.v_proj = QuantLinear.from_float(source.v_proj)
        new.c_proj = QuantLinear.from_float(source.c_proj)
        new.sdpa = QuantSDPA()
        return new.train(source.training)

    def to_float(self) -> nn.Module:
        """An ``AttentionPool2d`` with these parameters."""
        positions, dim = self.positional_embedding.shape
        side = round((positions - 1) ** 0.5)
        with torch.device("meta"):
            pool: Any = AttentionPool2d(side, dim, self.num_heads, self.c_proj.out_features)
        pool.positional_embedding = self.positional_embedding
        for name in ("k_proj", "q_proj", "v_proj", "c_proj"):
            setattr(pool, name, getattr(self, name).to_float())
        result: nn.Module = pool.train(self.training)
        return result

    def forward(self, x: Tensor) -> Tensor:
        """Feature map ``(N, C, H, W)`` to pooled features ``(N, out)``."""
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
        tokens = tokens + self.positional_embedding.to(x.dtype)
        q, k, v = self.project(tokens, tokens, queries=1)
        out: Tensor = self.c_proj(self.merge(self.sdpa(q, k, v)))
        return out[:, 0]


class QuantOpenClipAttention(ExplicitAttention):
    """open_clip's ``Attention`` of its custom blocks (query/key norms, head scales, cosine)."""

    KEPT = ("ln_q", "ln_k", "logit_scale", "attn_drop", "head_scale", "ln_inner", "out_drop")
    SETTINGS = ("scaled_cosine", "scale_heads", "logit_scale_max", "head_dim", "scale", "use_fsdpa")

    def __init__(self, num_heads: int) -> None:
        super().__init__(num_heads)
        self.out_proj: QuantLinear

    @classmethod
    def from_float(cls, attention: nn.Module) -> Self:
        """Take over the parameters and norms of an open_clip ``Attention``."""
        source: Any = attention
        new = cls(source.num_heads)
        for name in cls.KEPT + cls.SETTINGS:
            setattr(new, name, getattr(source, name))
        packed = split_in_proj(source.in_proj_weight, source.in_proj_bias)
        new.q_proj, new.k_proj, new.v_proj = packed
        new.out_proj = QuantLinear.from_float(source.out_proj)
        new.sdpa = QuantSDPA()
        return new.train(source.training)

    def to_float(self) -> nn.Module:
        """An open_clip ``Attention`` with these parameters."""
        me: Any = self
        dim = self.q_proj.in_features
        with torch.device("meta"):
            new: Any = Attention(
                dim,
                self.num_heads,
                self.q_proj.bias is not None,
                scaled_cosine=me.scaled_cosine,
                scale_heads=me.scale_heads,
            )
        new.in_proj_weight, new.in_proj_bias = join_in_proj([self.q_proj, self.k_proj, self.v_proj])
        for name in self.KEPT + self.SETTINGS:
            setattr(new, name, getattr(self, name))
        new.out_proj = self.out_proj.to_float()
        result: nn.Module = new.train(self.training)
        return result

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """``(N, L, dim)`` to ``(N, L, dim)``."""
        me: Any = self
        q, k, v = self.project(x, x)
        mask = additive_mask(attn_mask, q.shape[0], self.num_heads, q.dtype)
        if me.logit_scale is not None:
            limit = torch.clamp(me.logit_scale, max=me.logit_scale_max).exp()
            # the core divides by sqrt(d), which cosine attention does not want
            q = F.normalize(q, dim=-1) * (limit * self.head_dim_root(q))
            k = F.normalize(k, dim=-1)
        else:
            q, k = me.ln_q(q), me.ln_k(k)
        out = self.sdpa(q, k, v, mask, me.attn_drop.p if self.training else 0.0)
        if me.head_scale is not None:
            out = out * me.head_scale
        result: Tensor = me.out_drop(self.out_proj(me.ln_inner(self.merge(out))))
        return result

    @staticmethod
    def head_dim_root(q: Tensor) -> float:
        """Square root of the width of one head."""
        return float(q.shape[-1] ** 0.5)


def swap_pooler(pooler: nn.Module) -> nn.Module:
    """Take the cross-attention of an ``AttentionalPooler`` apart, in place."""
    source: Any = pooler
    if isinstance(source.attn, nn.MultiheadAttention):
        source.attn = QuantMultiheadAttention.from_float(source.attn, cross=True)
    return pooler


SWAPS = {
    AttentionPool2d: QuantAttentionPool.from_float,
    Attention: QuantOpenClipAttention.from_float,
    AttentionalPooler: swap_pooler,
}
