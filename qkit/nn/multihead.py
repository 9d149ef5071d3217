# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``nn.MultiheadAttention`` as explicit layers, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from qkit.errors import ModelError
from qkit.nn.attention import ExplicitAttention, QuantSDPA, additive_mask
from qkit.nn.linear import QuantLinear

Layers = tuple[QuantLinear, QuantLinear, QuantLinear]


def split_in_proj(weight: nn.Parameter, bias: nn.Parameter | None) -> Layers:
    """Cut a packed ``(3 * dim, dim)`` projection into its q, k and v layers."""
    weights = [nn.Parameter(w.clone(), weight.requires_grad) for w in weight.detach().chunk(3)]
    return _layers(weights, bias)


def _layers(weights: Sequence[nn.Parameter], bias: nn.Parameter | None) -> Layers:
    """q, k and v layers around their weights and a packed bias ``(3 * dim,)``; flags are kept."""
    layers = [QuantLinear(w.shape[1], w.shape[0], device="meta") for w in weights]
    for i, (layer, weight) in enumerate(zip(layers, weights, strict=True)):
        layer.weight = weight
        if bias is None:
            layer.register_parameter("bias", None)
        else:
            part = bias.detach().chunk(3)[i].clone()
            layer.bias = nn.Parameter(part, requires_grad=bias.requires_grad)
    return layers[0], layers[1], layers[2]


def join_in_proj(layers: Sequence[QuantLinear]) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Stack q, k and v to a packed weight ``(3 * dim, dim)`` and bias ``(3 * dim,)``."""
    weight = torch.cat([layer.weight.detach() for layer in layers])
    packed = nn.Parameter(weight, requires_grad=layers[0].weight.requires_grad)
    return packed, join_biases(layers)


def join_biases(layers: Sequence[QuantLinear]) -> nn.Parameter | None:
    """Stack the biases of q, k and v to ``(3 * dim,)``; None where they have none."""
    biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
    if not biases:
        return None
    return nn.Parameter(torch.cat(biases), requires_grad=layers[0].bias.requires_grad)


class QuantMultiheadAttention(ExplicitAttention):
    """Drop-in for ``nn.MultiheadAttention``, same call and same result, with points inside."""

    def __init__(self, num_heads: int, cross: bool, dropout: float, batch_first: bool) -> None:
        super().__init__(num_heads, cross)
        self.dropout = dropout
        self.batch_first = batch_first
        self.out_proj: QuantLinear

    @classmethod
    def from_float(cls, mha: nn.MultiheadAttention, cross: bool = False) -> Self:
        """Take over the parameters of ``mha``; ``cross`` where keys come from another tensor.

        Raises:
            ModelError: it adds key or value tokens of its own, which no CLIP does.
        """
        if mha.bias_k is not None or mha.bias_v is not None or mha.add_zero_attn:
            message = (
                "attention with bias_k, bias_v or add_zero_attn cannot be taken apart. "
                "Leave it in float, or open an issue with the model's name."
            )
            raise ModelError(message)
        new = cls(mha.num_heads, cross or not mha._qkv_same_embed_dim, mha.dropout, mha.batch_first)
        new.q_proj, new.k_proj, new.v_proj = _projections(mha)
        new.out_proj = QuantLinear.from_float(mha.out_proj)
        new.sdpa = QuantSDPA()
        return new.train(mha.training)

    def to_float(self) -> nn.MultiheadAttention:
        """An ``nn.MultiheadAttention`` with these parameters, names and order as before."""
        q, k, v = self.q_proj, self.k_proj, self.v_proj
        mha: Any = nn.MultiheadAttention(
            q.out_features,
            self.num_heads,
            self.dropout,
            bias=q.bias is not None,
            kdim=k.in_features,
            vdim=v.in_features,
            batch_first=self.batch_first,
            device="meta",
        )
        if mha._qkv_same_embed_dim:
            mha.in_proj_weight, mha.in_proj_bias = join_in_proj([q, k, v])
        else:
            mha.q_proj_weight, mha.k_proj_weight, mha.v_proj_weight = q.weight, k.weight, v.weight
            mha.in_proj_bias = join_biases([q, k, v])
        mha.out_proj.weight, mha.out_proj.bias = self.out_proj.weight, self.out_proj.bias
        result: nn.MultiheadAttention = mha.train(self.training)
        return result

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """Attend, batch first or not as the original was; attention weights are never returned.

        Raises:
            ModelError: weights or a padding mask are asked for, or value is not key.
        """
        if need_weights or key_padding_mask is not None or value is not key:
            message = (
                "quantized attention returns no weights, takes no key_padding_mask and needs "
                "value to be key. Call it with need_weights=False, as open_clip does."
            )
            raise ModelError(message)
        context = key if key is not query else query
        if not self.batch_first:
            context = context.transpose(0, 1)
            query = context if key is query else query.transpose(0, 1)
        q, k, v = self.project(query, context)
        mask = additive_mask(attn_mask, q.shape[0], self.num_heads, q.dtype)
        merged = self.merge(self.sdpa(q, k, v, mask, self.dropout if self.training else 0.0))
        out: Tensor = self.out_proj(merged)
        return (out if self.batch_first else out.transpose(0, 1)), None


def _projections(mha: nn.MultiheadAttention) -> Layers:
    if mha._qkv_same_embed_dim:
        return split_in_proj(mha.in_proj_weight, mha.in_proj_bias)
    weights = (mha.q_proj_weight, mha.k_proj_weight, mha.v_proj_weight)
    return _layers(weights, mha.in_proj_bias)
