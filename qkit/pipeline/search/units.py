# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Layers that must share their bits, because they read one input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qkit.graph.layers import Layer
from qkit.nn.layer import QuantLayer
from qkit.nn.tensor_quantizer import TensorQuantizer
from qkit.pipeline.student import Student
from qkit.report.names import short_name


@dataclass(frozen=True, slots=True)
class Unit:
    """One layer, or several that read one input (q, k and v of an attention).

    Attributes:
        layers: they get the same bits; none is an attention core.
        macs: their multiply-accumulates of one image or one text.
    """

    layers: tuple[Layer, ...]
    macs: int

    @property
    def name(self) -> str:
        """The layer's name, or a glob for several."""
        return join_names([layer.name for layer in self.layers])

    @property
    def part(self) -> str:
        """The name without the path to its block."""
        return join_names([short_name(layer.name) for layer in self.layers])

    @property
    def tower(self) -> str:
        """The tower of its layers."""
        return self.layers[0].tower

    @property
    def points(self) -> tuple[TensorQuantizer, ...]:
        """The points that its layers have now, each once."""
        return tuple(dict.fromkeys(point for layer in self.layers for point in layer.points))

    @property
    def weights(self) -> int:
        """Weight values that are quantized."""
        return sum(
            layer.module.weight.numel()
            for layer in self.layers
            if isinstance(layer.module, QuantLayer) and layer.weight_quantizer is not None
        )

    @property
    def sees_input(self) -> bool:
        """Whether it rounds its input."""
        return any(layer.input_quantizers for layer in self.layers)


def list_units(student: Student) -> tuple[Unit, ...]:
    """The layers with points of their own choice, in module order.

    Left out are attention cores, whose operands keep the bits of the recipe, and what the recipe
    leaves in float.
    """
    groups: dict[object, list[Layer]] = {}
    for layer in student.layers:
        if layer.kind != "attention" and layer.points:
            point = next(iter(layer.input_quantizers), None)
            groups.setdefault(point or layer.name, []).append(layer)
    return tuple(
        Unit(tuple(group), sum(student.macs.get(layer.name, 0) for layer in group))
        for group in groups.values()
    )


def join_names(names: Sequence[str]) -> str:
    """One name for several: what differs between them in brackets, as a glob."""
    if len(names) == 1:
        return names[0]
    start = _common_start(names)
    end = _common_start([name[len(start) :][::-1] for name in names])[::-1]
    middles = [name[len(start) : len(name) - len(end)] for name in names]
    if all(len(middle) == 1 for middle in middles):
        return f"{start}[{''.join(middles)}]{end}"
    return f"{start}*{end}"


def _common_start(names: Sequence[str]) -> str:
    """The letters that all names begin with."""
    alike = 0
    for letters in zip(*names, strict=False):
        if len(set(letters)) > 1:
            break
        alike += 1
    return names[0][:alike]
