# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Quantize a part of a calibrated model: any choice of operands, the rest in float."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from qkit.graph.layers import Layer
from qkit.nn.tensor_quantizer import Mode, TensorQuantizer
from qkit.spec import Role

Chosen = Callable[[Layer, Role], bool]
"""Whether an operand of a layer is to be quantized."""


@contextmanager
def only(layers: Sequence[Layer], chosen: Chosen) -> Iterator[None]:
    """While entered, exactly the ``chosen`` operands are quantized; modes are restored afterwards.

    q, k and v of an attention read one tensor through one point. Where they are not treated alike,
    that point is switched off and the chosen ones round their input themselves.
    """
    before = [(point, point.mode) for layer in layers for point in layer.points]
    handles: list[RemovableHandle] = []
    try:
        for layer in layers:
            for point in layer.points:
                point.set_mode(Mode.QUANTIZE if chosen(layer, point.point.role) else Mode.OFF)
        for point, readers in _shared(layers).items():
            wanting = [layer for layer in readers if chosen(layer, point.point.role)]
            point.set_mode(Mode.QUANTIZE if len(wanting) == len(readers) else Mode.OFF)
            if 0 < len(wanting) < len(readers):
                handles += [_round_input(layer.module, point) for layer in wanting]
        yield
    finally:
        for handle in handles:
            handle.remove()
        for point, mode in before:
            point.set_mode(mode)


def _shared(layers: Sequence[Layer]) -> dict[TensorQuantizer, list[Layer]]:
    """Points that several layers read through, with these layers."""
    readers: dict[TensorQuantizer, list[Layer]] = {}
    for layer in layers:
        if layer.attention is not None:
            for point in layer.input_quantizers:
                readers.setdefault(point, []).append(layer)
    return readers


def _round_input(module: nn.Module, point: TensorQuantizer) -> RemovableHandle:
    def rounded(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (point.round(inputs[0]), *inputs[1:])

    return module.register_forward_pre_hook(rounded)
