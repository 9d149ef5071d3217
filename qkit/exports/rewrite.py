# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Turn a model that runs in integers into one whose integers an exporter can write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from qkit.exports.layers import (
    ExportAttention,
    ExportEmbedding,
    ExportLinear,
    ExportMlp,
    ExportPatches,
)
from qkit.exports.operators import Operators
from qkit.exports.qdq import Product, quantizer_of
from qkit.exports.simulated import ExportLayer, export_sdpa, weight_of
from qkit.nn.attention import QuantSDPA
from qkit.nn.embedding import QuantEmbedding
from qkit.nn.integers import IntegerWeight
from qkit.nn.layer import QuantLayer
from qkit.nn.linear import QuantLinear
from qkit.nn.operand import Rounder
from qkit.nn.product import ExactProduct
from qkit.nn.rounders import rounder_of
from qkit.runtime.convert import SIMULATED, Fallback
from qkit.runtime.modules import IntAttention, IntEmbedding, IntLinear, IntMlp, IntPatches

ODD = "its operands have grids or scales that no integer product takes"


def rewrite(
    model: nn.Module, fallbacks: Sequence[Fallback], operators: Operators
) -> tuple[Fallback, ...]:
    """Replace the layers of a model in place.

    Args:
        model: as ``runtime.load`` filled it, its integers at hand ("exact").
        fallbacks: its layers that do not compute in integers there.
        operators: how integers are spelled.

    Returns:
        the layers that compute in float in the export, and why.
    """
    integers = {name for name, whole in _Rewriter(operators).replace(model, "") if whole}
    left = [fallback for fallback in fallbacks if fallback.layer not in integers]
    if operators.attention:  # of which the runtime has none at all
        left = [Fallback(f.layer, ODD) if f.reason == SIMULATED else f for f in left]
    return tuple(left)


@dataclass(frozen=True, slots=True)
class _Rewriter:
    operators: Operators

    def replace(self, module: nn.Module, path: str) -> Iterator[tuple[str, bool]]:
        """Replace what is below ``module``; paths, and whether integers are multiplied there."""
        for name, child in list(module.named_children()):
            where = f"{path}.{name}".lstrip(".")
            new = self._stands_for(child)
            if new is not None:
                setattr(module, name, new.eval())
                yield where, _multiplies(new)
            if new is None or isinstance(new, ExportAttention):
                yield from self.replace(new or child, where)

    def _stands_for(self, module: nn.Module) -> nn.Module | None:
        """What stands for a module; None for what stays, or whose members are replaced."""
        match module:
            case IntLinear():
                return self._linear(module.rounder, module.gemm)
            case IntMlp():
                parts = (module.c_fc, module.c_proj)
                return ExportMlp(*(self._linear(part.rounder, part.gemm) for part in parts))
            case IntAttention():
                return ExportAttention.of(module, self._linear(module.rounder, module.gemm))
            case IntPatches():
                return ExportPatches(module, self._linear(module.rounder, module.gemm))
            case IntEmbedding():
                return ExportEmbedding(module)
            case QuantSDPA():
                return export_sdpa(module, self.operators)
            case QuantLayer() if module.weight_quantizer is not None:
                return self._layer(module)
        return None

    def _linear(self, rounder: Rounder, gemm: ExactProduct) -> ExportLinear:
        """Of an exact product, whose weight is not packed for a kernel."""
        weight = IntegerWeight(gemm.packed, gemm.scale)
        return self._rounded(rounder, weight, gemm.bias)

    def _rounded(
        self, rounder: Rounder, weight: IntegerWeight, bias: Tensor | None
    ) -> ExportLinear:
        product = Product(weight, bias, self.operators)
        return ExportLinear(quantizer_of(rounder, self.operators), product)

    def _layer(self, layer: QuantLayer) -> nn.Module:
        """Of a layer that is simulated."""
        weight, rounder = weight_of(layer), rounder_of(layer.input_quantizer)
        if weight is None or not isinstance(layer, QuantLinear) or isinstance(rounder, str):
            return ExportLayer(layer, weight, self.operators)
        return self._rounded(rounder, weight, _bias(layer))


def _multiplies(module: nn.Module) -> bool:
    """Whether what stands for a layer multiplies integers."""
    if isinstance(module, ExportLayer):
        return module.integers and not isinstance(module.layer, QuantEmbedding)
    return True


def _bias(layer: QuantLinear) -> Tensor | None:
    """A layer's bias and what corrects its rounding, ``(out,)``."""
    point = layer.weight_quantizer
    correction = None if point is None else point.correction
    if layer.bias is None or correction is None:
        return correction if layer.bias is None else layer.bias.detach()
    return layer.bias.detach() + correction
