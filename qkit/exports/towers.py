# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The two towers of a model as modules of their own, with what an exporter is shown."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkit.clip.layout import towers
from qkit.clip.text import text_tower

TOWERS = ("image", "text")


class Tower(nn.Module):
    """One tower: pixels ``(N, 3, H, W)`` or tokens ``(N, context)`` to features ``(N, dim)``.

    Features are as ``encode_image`` and ``encode_text`` give them, not normalised.
    """

    def __init__(self, model: nn.Module, name: str, *, any_length: bool = False) -> None:
        """Take a tower out of a model, which is of no use for anything else afterwards.

        Args:
            model: rewritten (see ``exports.rewrite``).
            name: "image" or "text".
            any_length: texts may be shorter than the context.
        """
        super().__init__()
        self.name = name
        self.model = _without(model, towers(model)["text" if name == "image" else "image"])
        if name == "text" and any_length:
            _widen_mask(text_tower(self.model))

    def forward(self, x: Tensor) -> Tensor:
        """Encode."""
        model: Any = self.model
        features: Tensor = model.encode_image(x) if self.name == "image" else model.encode_text(x)
        return features


def _without(model: nn.Module, members: tuple[str, ...]) -> nn.Module:
    """The same model, its modules shared, without some of its members."""
    part = copy.copy(model)
    for kind in ("_modules", "_parameters", "_buffers"):
        kept = {name: value for name, value in getattr(model, kind).items() if name not in members}
        object.__setattr__(part, kind, kept)
    return part


def _widen_mask(tower: nn.Module) -> None:
    """Give a mask that is cut to each text's length a column and a row that no text reaches.

    The part cut out then lies alike in memory for every length, the context's included, which a
    tracer would otherwise make a case of its own.
    """
    tower.attn_mask = F.pad(cast("Tensor", tower.attn_mask), (0, 1, 0, 1))


class Signature(NamedTuple):
    """What a tower takes and gives.

    input: name of the input; output: name of the output; shape: of one input.
    """

    input: str
    output: str
    shape: tuple[int, ...]


def signatures(config: Any, context: int) -> dict[str, Signature]:
    """What both towers take and give, by name.

    Args:
        config: of the model, as ``ClipModel`` has it.
        context: token numbers of a text.
    """
    size = config["preprocess_cfg"]["size"]
    height, width = (size, size) if isinstance(size, int) else size
    return {
        "image": Signature("pixels", "image_features", (3, height, width)),
        "text": Signature("tokens", "text_features", (context,)),
    }


def example(signature: Signature, *, any_length: bool) -> Tensor:
    """Any input of a tower; its open axes have sizes that are no limit of theirs."""
    if signature.input == "pixels":
        return torch.zeros(3, *signature.shape)
    context = signature.shape[0]
    return torch.ones(3, context // 2 + 1 if any_length else context, dtype=torch.int64)


def open_dims(signature: Signature, *, any_length: bool) -> dict[int, Any]:
    """Axes of an input whose size is open, as ``torch.export`` takes them.

    Args:
        signature: of the tower.
        any_length: texts may be shorter than the context.
    """
    dims: dict[int, Any] = {0: torch.export.Dim("batch")}
    if any_length:
        dims[1] = torch.export.Dim("length", max=signature.shape[0])
    return dims
