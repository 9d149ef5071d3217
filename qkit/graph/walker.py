# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Swap the float modules of a model for quantized ones, in place, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from qkit.nn.attention import ExplicitAttention
from qkit.nn.conv import QuantConv2d
from qkit.nn.embedding import QuantEmbedding
from qkit.nn.layer import QuantLayer
from qkit.nn.linear import QuantLinear, QuantProjection
from qkit.nn.multihead import QuantMultiheadAttention

SwapTable = Mapping[type[nn.Module], Callable[[Any], nn.Module]]
"""From an exact float class to the function that makes its quantized counterpart."""

FLOAT_CLASSES: SwapTable = {
    nn.Linear: QuantLinear.from_float,
    nn.Conv2d: QuantConv2d.from_float,
    nn.Embedding: QuantEmbedding.from_float,
    nn.MultiheadAttention: QuantMultiheadAttention.from_float,
}


def swap(
    model: nn.Module, roots: Sequence[str], projections: Sequence[str], table: SwapTable
) -> None:
    """Replace every module below ``roots`` whose exact class ``table`` knows, in place.

    Subclasses are left alone: they may compute something else. No points are created, so the model
    computes what it did before. Swapping twice changes nothing.

    Args:
        model: the model, changed in place.
        roots: module paths to search, each with all that lies below it.
        projections: paths of bare ``(in, out)`` parameters that the model applies with ``@``.
        table: what becomes of which class.
    """
    for root in roots:
        owner, _, name = root.rpartition(".")
        _swap_child(model.get_submodule(owner), name, table)
    for path in projections:
        owner, _, name = path.rpartition(".")
        _swap_parameter(model.get_submodule(owner), name)


def _swap_child(owner: nn.Module, name: str, table: SwapTable) -> None:
    child = getattr(owner, name)
    make = table.get(type(child))
    if make is not None:
        setattr(owner, name, make(child))
    elif not isinstance(child, QuantLayer | ExplicitAttention):
        for grandchild in [key for key, module in child.named_children() if module is not None]:
            _swap_child(child, grandchild, table)


def _swap_parameter(owner: nn.Module, name: str) -> None:
    parameter = owner._parameters.get(name)
    if parameter is None:  # swapped already
        return
    order = tuple(owner._parameters)
    delattr(owner, name)
    setattr(owner, name, QuantProjection.from_parameter(parameter, order))


def restore(model: nn.Module) -> None:
    """Undo ``swap`` in place: classes, parameter names and their order are as they were."""
    for owner in list(model.modules()):
        owner.__class__ = getattr(owner, "float_class", type(owner))
        for name, child in list(owner.named_children()):
            if isinstance(child, QuantProjection):
                _restore_parameter(owner, name, child)
            elif isinstance(child, QuantLayer):
                setattr(owner, name, child.to_float())
            elif isinstance(child, ExplicitAttention):
                setattr(owner, name, child.to_float())  # type: ignore[operator]


def _restore_parameter(owner: nn.Module, name: str, projection: QuantProjection) -> None:
    delattr(owner, name)
    setattr(owner, name, projection.to_parameter())
    parameters = dict(owner._parameters)
    for key in projection.order:
        owner._parameters[key] = owner._parameters.pop(key, parameters[key])
