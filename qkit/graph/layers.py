# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The quantizable layers of a swapped model as one flat list, in the order of its modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qkit.nn.attention import OPERANDS, ExplicitAttention, QuantSDPA
from qkit.nn.conv import QuantConv2d
from qkit.nn.embedding import QuantEmbedding
from qkit.nn.layer import QuantLayer
from qkit.nn.linear import QuantLinear, QuantProjection
from qkit.nn.switching import in_mode
from qkit.nn.tensor_quantizer import Mode, TensorQuantizer
from qkit.spec import LayerKind, QuantSpec
from qkit.transform import Transform

Towers = Mapping[str, tuple[str, ...]]
"""Tower name to the paths of the modules and parameters that belong to it."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer with points: something with a weight, or the two products of an attention.

    Attributes:
        name: path in the swapped model.
        tower: "image" or "text".
        kind: what it computes; "attention" is the core between the q, k, v and out layers.
        module: the swapped module.
        attention: the attention that feeds this q, k or v layer; None for every other layer.
    """

    name: str
    tower: str
    kind: LayerKind
    module: QuantLayer | QuantSDPA
    attention: ExplicitAttention | None = None

    @property
    def weight_quantizer(self) -> TensorQuantizer | None:
        """The weight point, if there is one."""
        return self.module.weight_quantizer if isinstance(self.module, QuantLayer) else None

    @property
    def input_quantizers(self) -> tuple[TensorQuantizer, ...]:
        """The points on this layer's inputs: one, or the operands of an attention core."""
        if isinstance(self.module, QuantSDPA):
            return tuple(self.module.points())
        if self.attention is not None:
            shared = self.attention.input_quantizer_of(self.module)
            return () if shared is None else (shared,)
        own = self.module.input_quantizer
        return () if own is None else (own,)

    @property
    def points(self) -> tuple[TensorQuantizer, ...]:
        """All points that change this layer's output."""
        weight = self.weight_quantizer
        return self.input_quantizers if weight is None else (*self.input_quantizers, weight)

    @property
    def input_axis(self) -> int:
        """Channel axis of the input."""
        return 1 if self.kind == "conv" else -1

    @property
    def transform(self) -> Transform | None:
        """The coordinates in which input and weight are rounded, if not their own."""
        return next((point.transform for point in self.input_quantizers), None)

    @property
    def raw_weight(self) -> Tensor:
        """The float weight as ``(out, in)``; empty for an attention core, which has none."""
        weight: Tensor = getattr(self.module, "weight", torch.empty(0, 0))
        return weight.detach().flatten(1)

    @property
    def weight_rows(self) -> Tensor:
        """The float weight as ``(out, in)``, in the coordinates in which it is rounded.

        Empty for an attention core, which has none.
        """
        weight = self.raw_weight
        return weight if self.transform is None else self.transform.weight_into(weight)

    @property
    def weight_shape(self) -> torch.Size:
        """Shape of the weight; (0, 0) for an attention core, which has none."""
        weight: Tensor = getattr(self.module, "weight", torch.empty(0, 0))
        return weight.shape

    @property
    def reads(self) -> int:
        """Values of an input that one output is made of; 0 for an attention core."""
        return self.weight_shape[1:].numel()

    def rounded(self, x: Tensor) -> Tensor:
        """An input as this layer's input point rounds it, whatever the mode."""
        if isinstance(self.module, QuantLayer) and self.attention is None:
            with self.switched(Mode.QUANTIZE):
                return self.module.quantized_input(x)
        return self.input_quantizers[0].round(x)

    def as_rounded(self, x: Tensor) -> Tensor:
        """An input in the coordinates in which it is rounded; patches stay where they are."""
        point = next(iter(self.input_quantizers), None)
        return x if point is None or self.kind == "conv" else point.into(x)

    def rows(self, x: Tensor) -> Tensor | None:
        """An input as the matrix ``(rows, in)`` whose rows ``weight_rows`` multiplies.

        In the coordinates in which it is rounded, but not rounded.

        None where there is no such matrix: embeddings, attention cores, grouped convolutions.
        """
        rows = self.raw_rows(x)
        return rows if rows is None or self.transform is None else self.transform.into(rows)

    def raw_rows(self, x: Tensor) -> Tensor | None:
        """An input as the matrix ``(rows, in)`` whose rows ``weight.flatten(1)`` multiplies."""
        if isinstance(self.module, QuantLinear):
            return x.flatten(0, -2)
        if isinstance(self.module, QuantConv2d) and self.module.groups == 1:
            return self.module.patches(x)
        return None

    def run_alone(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """This layer's output for float ``inputs`` with its own points on, whatever the mode."""
        with self.switched(Mode.QUANTIZE):
            if self.attention is not None and self.input_quantizers:
                inputs = (self.input_quantizers[0](inputs[0]),)
            return self._forward(inputs)

    def run_float(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """This layer's output for ``inputs`` with its own points off, whatever the mode."""
        with self.switched(Mode.OFF):
            return self._forward(inputs)

    def switched(self, mode: Mode) -> AbstractContextManager[None]:
        """Switch this layer's points for a while, without counting their calls."""
        return in_mode(self.points, mode)

    def _forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        forward: Callable[..., Tensor] = self.module.forward
        return forward(*inputs)


def list_layers(model: nn.Module, towers: Towers) -> tuple[Layer, ...]:
    """All layers of the towers of a swapped model, in module order, each once."""
    return tuple(_walk(model, towers))


def list_points(model: nn.Module) -> list[TensorQuantizer]:
    """All points of a model, in module order."""
    return [module for module in model.modules() if isinstance(module, TensorQuantizer)]


def tower_of(name: str, towers: Towers) -> str | None:
    """The tower that the module or parameter ``name`` belongs to, or None."""
    for tower, paths in towers.items():
        if any(name == path or name.startswith(f"{path}.") for path in paths):
            return tower
    return None


def _walk(model: nn.Module, towers: Towers) -> Iterator[Layer]:
    feeds: dict[nn.Module, ExplicitAttention] = {}
    for name, module in model.named_modules():
        if isinstance(module, ExplicitAttention):
            feeds |= dict.fromkeys((module.q_proj, module.k_proj, module.v_proj), module)
        tower = tower_of(name, towers)
        if tower is not None and isinstance(module, QuantLayer | QuantSDPA):
            yield Layer(name, tower, _kind(module), module, feeds.get(module))


def _kind(module: QuantLayer | QuantSDPA) -> LayerKind:
    if isinstance(module, QuantSDPA):
        return "attention"
    if isinstance(module, QuantConv2d):
        return "conv"
    if isinstance(module, QuantEmbedding):
        return "embedding"
    return "projection" if isinstance(module, QuantProjection) else "linear"


def operand_bits(layer: Layer) -> dict[str, int | None]:
    """Effective bits of every operand of ``layer``; None is float."""
    if isinstance(layer.module, QuantSDPA):
        specs = {q.point.role: q.spec for q in layer.input_quantizers}
        return {role: _bits(specs.get(role)) for role in OPERANDS}
    weight = layer.weight_quantizer
    bits = {"weight": _bits(None if weight is None else weight.spec)}
    if layer.kind != "embedding":
        inputs = layer.input_quantizers
        bits["input"] = _bits(inputs[0].spec if inputs else None)
    return bits


def _bits(spec: QuantSpec | None) -> int | None:
    return None if spec is None else spec.bits
