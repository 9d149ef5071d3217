# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Flags win over recipes: rewrite bits, granularity and method of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from qkit.errors import RecipeError
from qkit.recipe.reading import check_spec
from qkit.recipe.schema import CalibratorConfig, Recipe, SchemeRule
from qkit.spec import Granularity, QuantSpec, Scheme


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the user said beside the recipe; None leaves the recipe's value.

    Attributes:
        bits: of weights and activations alike.
        weight_bits: of weights; wins over ``bits``.
        act_bits: of layer inputs; wins over ``bits``.
        attn_bits: of the attention operands q, k, v and probabilities.
        act_granularity: "tensor", "channel" or "token" for layer inputs.
        method: calibrator; dropping the recipe's options if it names another one.
        options: calibrator options, added to the recipe's.
        samples: calibration images.
        batch_size: images at once.
        seed: of the draw.
    """

    bits: int | None = None
    weight_bits: int | None = None
    act_bits: int | None = None
    attn_bits: int | None = None
    act_granularity: str | None = None
    method: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    samples: int | None = None
    batch_size: int | None = None
    seed: int | None = None


def override(recipe: Recipe, o: Overrides) -> Recipe:
    """The recipe with every given flag applied to all its quantizing rules.

    Raises:
        RecipeError: bits outside 2 to 8, an unknown granularity, or bits where the recipe searches.
    """
    if recipe.search is not None and {o.bits, o.weight_bits, o.act_bits} != {None}:
        message = (
            "bits are given, but the recipe searches for those of each layer. Drop them, or "
            "[search]."
        )
        raise RecipeError(message)
    config = recipe.calibrator
    if o.method is not None and o.method != config.method:
        config = CalibratorConfig(o.method)
    config = CalibratorConfig(config.method, {**config.options, **o.options})
    given = {"samples": o.samples, "batch_size": o.batch_size, "seed": o.seed}
    changes = {name: value for name, value in given.items() if value is not None}
    rules = tuple(_override_rule(rule, o) for rule in recipe.rules)
    return replace(recipe, rules=rules, calibrator=config, **changes)  # type: ignore[arg-type]


def _override_rule(rule: SchemeRule, o: Overrides) -> SchemeRule:
    weight_bits = o.bits if o.weight_bits is None else o.weight_bits
    act_bits = o.bits if o.act_bits is None else o.act_bits
    granularity = None if o.act_granularity is None else Granularity.parse(o.act_granularity)
    scheme = Scheme(
        weight=_override_spec(rule.scheme.weight, weight_bits),
        input=_override_spec(rule.scheme.input, act_bits, granularity),
        attention=_override_spec(rule.scheme.attention, o.attn_bits),
        probs=_override_spec(rule.scheme.probs, o.attn_bits),
    )
    if scheme.input is not None:
        check_spec("input", scheme.input, "act_granularity")
    return replace(rule, scheme=scheme)


def _override_spec(
    spec: QuantSpec | None, bits: int | None, granularity: Granularity | None = None
) -> QuantSpec | None:
    if spec is None:
        return None
    return replace(
        spec if bits is None else spec.with_bits(bits),
        granularity=spec.granularity if granularity is None else granularity,
    )
