# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Stretches of a tower between two states of its residual stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from qkit.graph.layers import Layer
from qkit.nn.tensor_quantizer import TensorQuantizer


@dataclass(frozen=True, slots=True)
class Stage:
    """Half a residual block (attention or MLP), or a whole one.

    Attributes:
        name: path in the model.
        tower: "image" or "text".
        block: index of the transformer block within the tower.
        module: the block; what it returns is the stream after its last stage.
        entry: the module whose first input is the stream that arrives here.
        function: the stream that leaves, of the one that arrives and of whatever else the block is
            called with (an attention mask).
        layers: the layers inside, in module order.
    """

    name: str
    tower: str
    block: int
    module: nn.Module
    entry: nn.Module
    function: Callable[..., Tensor]
    layers: tuple[Layer, ...]

    @property
    def points(self) -> tuple[TensorQuantizer, ...]:
        """All points inside, each once."""
        return tuple(dict.fromkeys(point for layer in self.layers for point in layer.points))


def first_input(
    layers: Sequence[Layer], running: Iterable[str]
) -> tuple[Layer, TensorQuantizer | None]:
    """The first layer, in the order of the names ``running``, that rounds its input; its point."""
    by_name = {layer.name: layer for layer in layers}
    order = [by_name[name] for name in running]
    layer = next((found for found in order if found.input_quantizers), order[0])
    return layer, next(iter(layer.input_quantizers), None)
