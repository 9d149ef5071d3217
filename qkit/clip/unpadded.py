# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Causal text towers that spend nothing on what follows a text."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkit.clip.text import ShortTextCLIP, ShortTextTransformer, retype, text_ends

PORTION = 16  # texts at once: enough for a product to run at full speed


class UnpaddedCLIP(ShortTextCLIP):
    """open_clip's CLIP whose texts are cut where they end."""

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Features ``(N, dim)`` of token numbers ``(N, tokens)``."""
        features = in_portions(self, text, super().encode_text)
        return F.normalize(features, dim=-1) if normalize else features


class UnpaddedTransformer(ShortTextTransformer):
    """open_clip's text tower whose texts are cut where they end."""

    def forward(self, text: Tensor) -> Tensor:
        """Features ``(N, dim)`` of token numbers ``(N, tokens)``, or what the tower returns."""
        return in_portions(self, text, super().forward)


UNPADDED: dict[type[nn.Module], type[nn.Module]] = {
    ShortTextCLIP: UnpaddedCLIP,
    ShortTextTransformer: UnpaddedTransformer,
}


def drop_padding(model: nn.Module) -> None:
    """Let the text tower of ``model`` cut texts, in place, where ``accept_short_texts`` knew it."""
    retype(model, UNPADDED)


def keep_padding(model: nn.Module) -> None:
    """Let the text tower of ``model`` take texts as they come again, in place."""
    retype(model, {unpadded: short for short, unpadded in UNPADDED.items()})


def in_portions(model: nn.Module, tokens: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """``encode(tokens)``, texts of like length together, each portion cut after its longest.

    Args:
        model: as ``accept_short_texts`` left it.
        tokens: token numbers ``(N, context)``.
        encode: gives one row a text.
    """
    ends = text_ends(model, tokens)
    if ends is None or not len(ends):
        return encode(tokens)
    order = ends.argsort()
    parts = [encode(tokens[part, : int(ends[part[-1]]) + 1]) for part in order.split(PORTION)]
    return torch.cat(parts)[order.argsort()]
