# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Where an open_clip model keeps its towers, its blocks and its bare projections."""

from __future__ import annotations

from torch import nn

from qkit.clip.attention import SWAPS
from qkit.clip.text import accept_short_texts
from qkit.errors import ModelError
from qkit.graph.layers import Towers
from qkit.graph.walker import FLOAT_CLASSES, swap

PROJECTIONS = ("visual.proj", "text_projection", "text.text_projection")
TEXT_MEMBERS = (
    "transformer",
    "token_embedding",
    "positional_embedding",
    "ln_final",
    "text_projection",
)


def towers(model: nn.Module) -> Towers:
    """The parts of ``model`` that encode images and texts.

    Raises:
        ModelError: it has no image tower, or no text tower.
    """
    members = {name for name, _ in [*model.named_children(), *model.named_parameters()]}
    text = ("text",) if "text" in members else TEXT_MEMBERS
    found = {
        "image": tuple(n for n in ("visual",) if n in members),
        "text": tuple(n for n in text if n in members),
    }
    for tower, paths in found.items():
        if not paths:
            message = (
                f"{type(model).__name__} has no {tower} tower. "
                "Use a CLIP model of open_clip (one with encode_image and encode_text)."
            )
            raise ModelError(message)
    return found


def swap_clip(model: nn.Module) -> Towers:
    """Swap both towers of an open_clip model in place (see ``graph.walker.swap``).

    Its text tower then takes texts that are shorter than its context, too.

    Returns:
        the towers.
    """
    found = towers(model)
    bare = [path for path in PROJECTIONS if _is_bare(model, path)]
    roots = [path for paths in found.values() for path in paths if _is_module(model, path)]
    swap(model, roots, bare, {**FLOAT_CLASSES, **SWAPS})
    accept_short_texts(model)
    return found


def _is_module(model: nn.Module, path: str) -> bool:
    return path in dict(model.named_children())


def _is_bare(model: nn.Module, path: str) -> bool:
    return path in dict(model.named_parameters())
