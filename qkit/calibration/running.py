# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Switch points for a while, and see what arrives at layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, nn

from qkit.graph.layers import Layer
from qkit.nn.switching import in_mode
from qkit.nn.tensor_quantizer import Mode, TensorQuantizer

Inputs = dict[str, list[Tensor]]
"""What arrived at layers, by name, one tensor for each batch of samples."""


def switched(points: Iterable[TensorQuantizer], quantized: bool) -> AbstractContextManager[None]:
    """Switch points on or off for a while, without counting their calls."""
    return in_mode(points, Mode.QUANTIZE if quantized else Mode.OFF)


@contextmanager
def replaced(modules: Iterable[nn.Module], forward: Callable[..., Tensor]) -> Iterator[None]:
    """Let ``forward`` stand in for that of ``modules`` for a while."""
    found = list(modules)
    for module in found:
        module.forward = forward
    try:
        yield
    finally:
        for module in found:
            del module.forward  # the class's own shows again


@contextmanager
def recorded(layers: Sequence[Layer]) -> Iterator[Inputs]:
    """Collect, in running order, what arrives at ``layers`` before their own points."""
    found: Inputs = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, args: found.setdefault(name, []).append(args[0].detach())

    handles = [layer.module.register_forward_pre_hook(keep(layer.name)) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
