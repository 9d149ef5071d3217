# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Text features of prompts that hold learned context vectors beside ordinary tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkit.clip.model import ClipModel
from qkit.clip.packing import batches, pack, run_packed
from qkit.clip.prompt import LearnedPrompt
from qkit.clip.prompt_layout import PromptLayout, lay_out, phrase_tokens
from qkit.clip.text import cut_padding, text_ends, text_tower
from qkit.errors import ModelError

PADDED_AT_ONCE = 64  # texts

Encoder = Callable[[Tensor], Tensor]
"""From context vectors to text features ``(texts, dim)``, not normalised."""


def token_table(model: nn.Module) -> nn.Module:
    """The token table of a text tower, in float or in integers; context vectors go in behind it.

    Raises:
        ModelError: it has none that can be reached.
    """
    tower = text_tower(model)
    table = getattr(tower, "token_embedding", None)
    if not isinstance(table, nn.Module):
        message = (
            f"the text tower {type(tower).__name__} takes no context vectors: it has no "
            "token_embedding. Go without a learned prompt (--no-prompt)."
        )
        raise ModelError(message)
    return table


def phrase_vectors(clip: ClipModel, phrase: str) -> Tensor:
    """The token embeddings of a phrase, ``(tokens, width)``, to start context vectors from.

    Raises:
        DataError: it has no words.
        ModelError: see ``token_table``.
    """
    with torch.no_grad():
        found: Tensor = token_table(clip.model)(phrase_tokens(clip, phrase).to(_device(clip.model)))
    return found.detach().clone()


def token_width(model: nn.Module) -> int:
    """Length of a context vector.

    Raises:
        ModelError: see ``token_table``.
    """
    with torch.no_grad():
        one: Tensor = token_table(model)(torch.zeros(1, dtype=torch.long, device=_device(model)))
    return one.shape[-1]


def prompt_encoder(model: nn.Module, layout: PromptLayout, *, shared: bool) -> Encoder:
    """How the text tower of ``model`` encodes texts with context vectors.

    The gradient reaches the vectors through rounding too. Where the tower is causal, the columns
    that all texts have in common run once (see ``qkit.clip.packing``); the features are the same.

    Args:
        model: as ``swap_clip`` left it, or open_clip's own.
        layout: the texts.
        shared: all texts have the same vectors.

    Raises:
        ModelError: see ``token_table``.
    """
    token_table(model)
    device = _device(model)
    placed = PromptLayout(layout.tokens.to(device), layout.slots.to(device))
    ends = text_ends(model, placed.tokens)
    if ends is None:
        return partial(_run_padded, model, placed)
    packed = batches(pack(placed, ends, shared=shared))
    return partial(run_packed, text_tower(model), packed)


@torch.no_grad()
def encode_prompted(clip: ClipModel, prompt: LearnedPrompt, texts: Sequence[str]) -> Tensor:
    """Normalised features ``(texts, dim)`` of texts with a learned prompt.

    Raises:
        DataError: a text is too long, or of no class that the prompt knows.
    """
    layout = lay_out(clip, texts, prompt.vectors, prompt.position, captions=prompt.captions)
    encode = prompt_encoder(clip.model, layout, shared=prompt.context.ndim == 2)
    context = prompt.context_of(texts).to(_device(clip.model))
    return F.normalize(encode(context).float(), dim=-1)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _run_padded(model: Any, layout: PromptLayout, context: Tensor) -> Tensor:
    """Run whole texts with the vectors put in behind the token table, whatever the tower."""
    parts = []
    for rows in torch.arange(len(layout.tokens)).split(PADDED_AT_ONCE):
        some = layout.rows(rows)
        vectors = context if context.ndim == 2 else context[rows]
        with _written(token_table(model), some.slots, vectors):
            parts.append(model.encode_text(cut_padding(model, some.tokens)))
    return torch.cat(parts)


@contextmanager
def _written(table: nn.Module, slots: Tensor, context: Tensor) -> Iterator[None]:
    """While entered, the table gives ``context`` in the columns ``slots``."""
    rows = torch.arange(len(slots), device=slots.device)[:, None]

    def write(_module: nn.Module, _args: Any, embedded: Tensor) -> Tensor:
        written = embedded.clone()
        written[rows, slots] = context.to(embedded.dtype).expand(*slots.shape, -1)
        return written

    handle = table.register_forward_hook(write)
    try:
        yield
    finally:
        handle.remove()
