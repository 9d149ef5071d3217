# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The residual blocks of the towers, in the order in which they run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from qkit.graph.layers import Towers, tower_of
from qkit.nn.attention import QuantSDPA
from qkit.nn.layer import QuantLayer

PATH = re.compile(r"(?:^|.*\.)(?:resblocks|blocks|layers|layer)\.\d+$")


@dataclass(frozen=True, slots=True)
class Block:
    """One transformer block.

    Attributes:
        name: path in the model.
        tower: "image" or "text".
        index: place in its tower, from 0; blocks of later stages go on counting.
        module: the block itself.
    """

    name: str
    tower: str
    index: int
    module: nn.Module

    def holds(self, name: str) -> bool:
        """Whether module ``name`` lies in this block."""
        return name.startswith(f"{self.name}.")


def list_blocks(model: nn.Module, towers: Towers) -> tuple[Block, ...]:
    """All transformer blocks by tower; of nested ones the innermost."""
    found = [
        (name, tower, module)
        for name, module in model.named_modules()
        if PATH.match(name)
        and _holds_layers(module)
        and (tower := tower_of(name, towers)) is not None
    ]
    names = [name for name, _, _ in found]
    inner = [item for item in found if not any(n.startswith(f"{item[0]}.") for n in names)]
    counts = dict.fromkeys(towers, 0)
    blocks = []
    for name, tower, module in inner:
        blocks.append(Block(name, tower, counts[tower], module))
        counts[tower] += 1
    return tuple(blocks)


def _holds_layers(module: nn.Module) -> bool:
    inside = (child for child in module.modules() if child is not module)
    return any(isinstance(child, QuantLayer | QuantSDPA) for child in inside)


def block_of(name: str, blocks: Sequence[Block]) -> int | None:
    """Index of the block that module ``name`` lies in, or None outside the blocks."""
    return next((block.index for block in blocks if block.holds(name)), None)
