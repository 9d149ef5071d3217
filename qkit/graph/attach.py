# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Create the points that the rules ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from qkit.errors import RecipeError
from qkit.graph.layers import Layer
from qkit.nn.attention import ExplicitAttention, QuantSDPA
from qkit.recipe.schema import SchemeRule
from qkit.spec import QuantSpec, Scheme


def attach(
    model: nn.Module,
    layers: Sequence[Layer],
    rules: Sequence[SchemeRule],
    decided: Mapping[str, int | None],
) -> None:
    """Give every layer the points of the rule that decides it; layers without a rule get none.

    Raises:
        RecipeError: q, k and v of one attention, which read one tensor, want different inputs.
    """
    schemes = {
        name: Scheme() if index is None else rules[index].scheme for name, index in decided.items()
    }
    for layer in layers:
        scheme = schemes[layer.name]
        if isinstance(layer.module, QuantSDPA):
            layer.module.attach(layer.name, scheme.attention, scheme.probs)
        elif layer.attention is None:
            layer.module.attach(layer.name, scheme)
        else:  # its input point is shared, see below
            layer.module.attach(layer.name, Scheme(weight=scheme.weight))
    for name, module in model.named_modules():
        if isinstance(module, ExplicitAttention) and f"{name}.q_proj" in schemes:
            _attach_inputs(name, module, schemes)


def _attach_inputs(name: str, attention: ExplicitAttention, schemes: Mapping[str, Scheme]) -> None:
    wanted = {part: schemes[f"{name}.{part}"].input for part in ("q_proj", "k_proj", "v_proj")}
    shared = ("k_proj", "v_proj") if attention.cross else tuple(wanted)
    if len({wanted[part] for part in shared}) > 1:
        said = ", ".join(f"{part} {_describe(wanted[part])}" for part in shared)
        message = (
            f"{name}: its projections read one tensor but are to see it differently ({said}). "
            f"Give them one rule, e.g. match = '{name}.[qkv]_proj'."
        )
        raise RecipeError(message)
    attention.attach_inputs(name, wanted["q_proj"], wanted["k_proj"])


def _describe(spec: QuantSpec | None) -> str:
    return "float" if spec is None else str(spec)
