# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The token table: a sixth of a ViT-B-32's weights, one scale a row."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch.nn.functional as F
from torch import Tensor, nn

from qkit.nn.layer import QuantLayer


def _arguments(module: nn.Embedding) -> dict[str, Any]:
    names = ("num_embeddings", "embedding_dim", "padding_idx", "max_norm", "norm_type")
    return {name: getattr(module, name) for name in (*names, "scale_grad_by_freq", "sparse")}


class QuantEmbedding(QuantLayer, nn.Embedding):
    """``nn.Embedding`` with a weight point ``(rows, features)``; its input are token numbers."""

    input_axis: ClassVar[int | None] = None

    @classmethod
    def from_float(cls, module: nn.Embedding) -> Self:
        """Take over the table of ``module``."""
        layer = cls(**_arguments(module), device="meta")
        layer.weight = module.weight
        return layer.train(module.training)

    def to_float(self) -> nn.Embedding:
        """An ``nn.Embedding`` with this layer's table."""
        module = nn.Embedding(**_arguments(self), device="meta")
        module.weight = self.weight
        return module.train(self.training)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(...)`` token numbers to ``(..., features)``."""
        return self.product(tokens, self.quantized_weight())

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """``(...)`` token numbers to ``(..., features)`` by a table of one's choice."""
        return F.embedding(
            x,
            weight,
            self.padding_idx,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.sparse,
        )
