# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Attention taken apart: explicit q, k, v and out layers around a core with points of its own.

``nn.MultiheadAttention`` packs q, k and v into one bare parameter and never calls its output
layer, so a tool that swaps linears leaves a third of every transformer block in float.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkit.nn.arrival import Arrival, First
from qkit.nn.linear import QuantLinear
from qkit.nn.tensor_quantizer import Mode, TensorQuantizer
from qkit.spec import PointId, QuantSpec, Role

OPERANDS: tuple[Role, ...] = ("query", "key", "value", "probs")


class QuantSDPA(nn.Module):
    """softmax(q k^T * scale + mask) v, with a point on each operand of the two products.

    Shapes: q ``(N, heads, L, d)``, k and v ``(N, heads, S, d)``, mask broadcastable to
    ``(N, heads, L, S)`` and added; the result is ``(N, heads, L, d)``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operands = nn.ModuleDict()

    def attach(self, name: str, spec: QuantSpec | None, probs: QuantSpec | None = None) -> None:
        """Create a point for each operand, or none.

        Args:
            name: this module's path.
            spec: of the operands; None leaves all of them in float.
            probs: of the probabilities where they are rounded otherwise than the rest.
        """
        self.operands.clear()
        if spec is None:
            return
        specs = dict.fromkeys(OPERANDS, spec) | {"probs": probs or spec}
        for role in OPERANDS:
            self.operands[role] = TensorQuantizer(PointId(name, role), specs[role], axis=-1)

    def points(self) -> list[TensorQuantizer]:
        """The operand points, in the order query, key, value, probs."""
        return [q for q in self.operands.values() if isinstance(q, TensorQuantizer)]

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0
    ) -> Tensor:
        """Attend; the fused kernel is used while no point is active."""
        if all(point.mode is Mode.OFF for point in self.points()):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return attend(q, k, v, mask, dropout, lambda role, x: self.operands[role](x))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    dropout: float,
    rounded: Callable[[Role, Tensor], Tensor],
) -> Tensor:
    """Attention with each operand passed through ``rounded(role, operand)`` before its product."""
    q, k, v = rounded("query", q), rounded("key", k), rounded("value", v)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores + mask
    probs = rounded("probs", scores.softmax(dim=-1))
    return F.dropout(probs, dropout, training=dropout > 0) @ v


class ExplicitAttention(nn.Module):
    """Base of every attention module after the swap.

    Attributes:
        cross: whether key and value come from another tensor than the query.
        input_quantizer: the point on the query input; q, k and v share it in self-attention, since
            they read one tensor and an integer kernel quantizes that once.
        context_quantizer: the point on the key and value input of cross-attention.
    """

    q_proj: QuantLinear
    k_proj: QuantLinear
    v_proj: QuantLinear
    sdpa: QuantSDPA

    def __init__(self, num_heads: int, cross: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.cross = cross
        self.input_quantizer: TensorQuantizer | None = None
        self.context_quantizer: TensorQuantizer | None = None

    def attach_inputs(self, name: str, query: QuantSpec | None, context: QuantSpec | None) -> None:
        """Create the shared input points; ``context`` counts only for cross-attention."""
        self.input_quantizer = self.context_quantizer = None
        if query is not None:
            self.input_quantizer = TensorQuantizer(PointId(name, "input"), query, axis=-1)
        if self.cross and context is not None:
            self.context_quantizer = TensorQuantizer(PointId(name, "context"), context, axis=-1)

    def input_quantizer_of(self, projection: nn.Module) -> TensorQuantizer | None:
        """The shared point that feeds ``projection`` (q_proj, k_proj or v_proj)."""
        feeds_query = projection is self.q_proj or not self.cross
        return self.input_quantizer if feeds_query else self.context_quantizer

    def project(
        self, query: Tensor, context: Tensor, queries: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs ``(N, L, dim)`` and ``(N, S, dim)`` to q, k, v, each ``(N, heads, *, d)``.

        ``queries`` keeps only the first so many tokens of the query.
        """
        asked = Arrival(query, self.input_quantizer)
        feeds_context = self.context_quantizer if self.cross else self.input_quantizer
        known = asked if context is query else Arrival(context, feeds_context)
        if queries is not None:
            asked = First(asked, queries)
        both = ((self.q_proj, asked), (self.k_proj, known), (self.v_proj, known))
        q, k, v = (self._split(_read(layer, arrival)) for layer, arrival in both)
        return q, k, v

    def _split(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.num_heads, -1))
        return heads.transpose(1, 2)

    @staticmethod
    def merge(x: Tensor) -> Tensor:
        """``(N, heads, L, d)`` to ``(N, L, heads * d)``."""
        return x.transpose(1, 2).flatten(2)


def _read(layer: nn.Module, arrival: Arrival) -> Tensor:
    whole = arrival.operand is not None
    found: Tensor = layer(arrival.x, arrival) if whole else layer(arrival.rounded)
    return found


def additive_mask(mask: Tensor | None, batch: int, heads: int, dtype: torch.dtype) -> Tensor | None:
    """Bring a mask of ``nn.MultiheadAttention`` to the additive form that ``QuantSDPA`` takes.

    Accepts ``(L, S)``, ``(N * heads, L, S)`` or ``(N, heads, L, S)``, boolean (True is hidden) or
    additive.
    """
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))
    mask = mask.to(dtype)
    return mask.unflatten(0, (batch, heads)) if mask.ndim == 3 else mask
