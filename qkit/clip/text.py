# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Causal text towers on texts that end before the context does.

In a causal tower no position sees what follows it, so the feature of a text, taken where the text
ends, is the same with and without the padding behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from open_clip import CLIP
from open_clip.transformer import TextTransformer, text_global_pool
from torch import Tensor, nn


class ShortTextCLIP(CLIP):  # type: ignore[misc]
    """open_clip's CLIP that also takes fewer tokens than its context has."""

    float_class = CLIP

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Features ``(N, dim)`` of token numbers ``(N, tokens)``."""
        length = text.shape[1]
        dtype = self.transformer.get_cast_dtype()
        x = self.token_embedding(text).to(dtype) + self.positional_embedding[:length].to(dtype)
        x = self.ln_final(self.transformer(x, attn_mask=_cut_mask(self.attn_mask, length)))
        pooled = project(self, text_global_pool(x, text, self.text_pool_type, self.text_eos_id))
        return F.normalize(pooled, dim=-1) if normalize else pooled


class ShortTextTransformer(TextTransformer):  # type: ignore[misc]
    """open_clip's text tower that also takes fewer tokens than its context has."""

    float_class = TextTransformer

    def _embeds(self, text: Tensor) -> tuple[Tensor, Tensor | None]:
        x, mask = super()._embeds(text)
        return x, _cut_mask(mask, x.shape[1])


SHORT: dict[type[nn.Module], type[nn.Module]] = {
    CLIP: ShortTextCLIP,
    TextTransformer: ShortTextTransformer,
}


def accept_short_texts(model: nn.Module) -> None:
    """Let the text tower of ``model`` take short texts, in place, where its class is known."""
    retype(model, SHORT)


def retype(model: nn.Module, classes: Mapping[type[nn.Module], type[nn.Module]]) -> None:
    """Make ``model`` and its members what ``classes`` says of their class, in place."""
    for module in (model, *model.children()):
        other = classes.get(type(module))
        if other is not None:
            module.__class__ = other  # same attributes; as torch's parametrizations do it


def cut_padding(model: nn.Module, tokens: Tensor) -> Tensor:
    """The columns of ``tokens`` up to where the longest text ends; all where more are needed.

    Args:
        model: as ``accept_short_texts`` left it.
        tokens: token numbers ``(N, context)``.
    """
    ends = text_ends(model, tokens)
    return tokens if ends is None else tokens[:, : int(ends.max()) + 1]


def text_tower(model: Any) -> Any:
    """The module that holds the token table, the transformer and the projection."""
    return getattr(model, "text", model)


def project(tower: Any, pooled: Tensor) -> Tensor:
    """Pooled ``(N, width)`` to features ``(N, dim)``, by whatever projection the tower has."""
    projection = tower.text_projection
    if projection is None:
        return pooled
    linear = isinstance(projection, nn.Linear)
    found: Tensor = projection(pooled) if linear else pooled @ projection
    return found


def text_ends(model: nn.Module, tokens: Tensor) -> Tensor | None:
    """Where each text of ``tokens`` ``(N, context)`` ends, ``(N,)``.

    None if the tower may look beyond, or the model is not as ``accept_short_texts`` left it.
    """
    tower = text_tower(model)
    if isinstance(tower, ShortTextCLIP):
        pool, end = tower.text_pool_type, tower.text_eos_id
    elif isinstance(tower, ShortTextTransformer) and tower.cls_emb is None:
        pool, end = ("none" if tower.output_tokens else tower.pool_type), tower.eos_id
    else:
        return None
    if tower.attn_mask is None:
        return None
    # text_global_pool's choice: the highest number, or the first end
    marks = {"argmax": tokens, "eos": tokens == end}.get(pool)
    return None if marks is None else marks.int().argmax(-1)


def _cut_mask(mask: Tensor | None, length: int) -> Tensor | None:
    return None if mask is None else mask[..., :length, :length]
