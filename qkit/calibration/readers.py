# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Layers that read one input, and some of its rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from qkit.graph.layers import Layer


def group_readers(layers: Sequence[Layer], names: Iterable[str]) -> list[list[Layer]]:
    """Layers with a weight, those that read one point together.

    Args:
        layers: embeddings and attention cores among them are left out.
        names: of layers, in the order they run in; others are left out.
    """
    by_name = {
        layer.name: layer for layer in layers if layer.kind not in ("attention", "embedding")
    }
    groups: dict[object, list[Layer]] = {}
    for name in names:
        if name in by_name:
            layer = by_name[name]
            point = next(iter(layer.input_quantizers), None)
            groups.setdefault(point or name, []).append(layer)
    return list(groups.values())


def arrivals(group: Sequence[Layer], inputs: Mapping[str, list[Tensor]]) -> list[Tensor]:
    """What arrives at a group of readers.

    A ResNet's pooling hands its query layer one token, key and value all of them: those count.
    """
    return max((inputs[layer.name] for layer in group), key=_size)


def _size(stream: Sequence[Tensor]) -> int:
    return sum(x.numel() for x in stream)


def draw(parts: Sequence[Tensor], rows: int, seed: int) -> Tensor | None:
    """At most so many of all rows, evenly; None of nothing."""
    if not parts:
        return None
    found = torch.cat(list(parts))
    generator = torch.Generator().manual_seed(seed)
    index = torch.randperm(len(found), generator=generator)[:rows]
    return found[index.to(found.device)]
