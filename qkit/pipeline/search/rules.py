# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""An assignment of bits as the rules of a recipe, as few as name every layer exactly."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from qkit.allocation.choices import Bits
from qkit.graph.layers import Layer
from qkit.graph.match import decide
from qkit.recipe import Recipe, SchemeRule
from qkit.spec import Scheme


def mixed_recipe(
    recipe: Recipe, layers: Sequence[Layer], bits: Mapping[str, Bits], summary: str
) -> Recipe:
    """``recipe`` with other bits for some layers; all else stays as its rules say.

    What most layers get becomes the last rule, the others are named before it.

    Args:
        recipe: its rules decide how each tensor is quantized but for the bits.
        layers: all layers of the model.
        bits: of weight and input, by layer name; other layers keep theirs.
        summary: of the new recipe.
    """
    decided = decide(recipe.rules, layers)
    wanted: dict[str, Scheme] = {}
    for layer in layers:
        index = decided[layer.name]
        scheme = Scheme() if index is None else recipe.rules[index].scheme
        wanted[layer.name] = relevant(layer, at_bits(scheme, bits.get(layer.name)))
    common = _most_frequent(layers, wanted)
    rest = [layer for layer in layers if relevant(layer, common) != wanted[layer.name]]
    rules = _exceptions(rest, wanted, common)
    if common != Scheme():  # a layer without a rule stays in float anyway
        rules.append(SchemeRule("*", scheme=common))
    return replace(recipe, rules=tuple(rules), summary=summary)


def at_bits(scheme: Scheme, bits: Bits | None) -> Scheme:
    """A scheme at other bits of weight and input; what is in float stays in float."""
    if bits is None:
        return scheme
    weight, input_ = scheme.weight, scheme.input
    return replace(
        scheme,
        weight=None if weight is None else weight.with_bits(bits.weight),
        input=None if input_ is None else input_.with_bits(bits.input),
    )


def relevant(layer: Layer, scheme: Scheme) -> Scheme:
    """The part of a scheme that a layer of this kind takes any notice of."""
    if layer.kind == "attention":
        return Scheme(attention=scheme.attention, probs=scheme.probs)
    if layer.kind == "embedding":
        return Scheme(weight=scheme.weight)
    return Scheme(scheme.weight, scheme.input)


def _most_frequent(layers: Sequence[Layer], wanted: Mapping[str, Scheme]) -> Scheme:
    """What most layers with a weight get, and what most attention cores get."""
    cores: Counter[Scheme] = Counter()
    weighted: Counter[Scheme] = Counter()
    for layer in layers:
        if layer.kind == "attention":
            cores[relevant(layer, wanted[layer.name])] += 1
        elif layer.kind != "embedding":
            weighted[wanted[layer.name]] += 1
    scheme = next((found for found, _ in weighted.most_common(1)), Scheme())
    core = next((found for found, _ in cores.most_common(1)), Scheme())
    return replace(scheme, attention=core.attention, probs=core.probs)


class _Place(NamedTuple):
    """A name around its first number: ``head.block.tail``; only a head where it has none."""

    head: str
    block: str = ""
    tail: str = ""


def _exceptions(
    layers: Sequence[Layer], wanted: Mapping[str, Scheme], common: Scheme
) -> list[SchemeRule]:
    """Rules that name ``layers``: one for those that sit alike in the same blocks."""
    blocks: dict[tuple[Scheme, str, str], list[str]] = {}
    for layer in layers:
        place = _place(layer.name)
        scheme = _filled(layer, wanted[layer.name], common)
        blocks.setdefault((scheme, place.head, place.tail), []).append(place.block)
    tails: dict[tuple[Scheme, str, tuple[str, ...]], list[str]] = {}
    for (scheme, head, tail), found in blocks.items():
        tails.setdefault((scheme, head, tuple(found)), []).append(tail)
    return [
        SchemeRule(_pattern(head, found, ends), scheme=scheme)
        for (scheme, head, found), ends in tails.items()
    ]


def _filled(layer: Layer, scheme: Scheme, common: Scheme) -> Scheme:
    """A scheme completed, where the layer takes no notice, so that rules differ only if they do."""
    if layer.kind == "attention" or scheme == Scheme():
        return scheme
    input_ = common.input if layer.kind == "embedding" else scheme.input
    return replace(scheme, input=input_, attention=common.attention, probs=common.probs)


def _place(name: str) -> _Place:
    parts = name.split(".")
    at = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    if at is None:
        return _Place(name)
    return _Place(".".join(parts[:at]), parts[at], ".".join(parts[at + 1 :]))


def _pattern(head: str, blocks: Sequence[str], tails: Sequence[str]) -> str:
    names = [".".join(filter(None, (head, b, tail))) for b in blocks for tail in tails]
    if len(names) == 1 and not set(names[0]) & set("*?["):
        return names[0]
    ends = [_any_of(blocks), _any_of(tails)]
    return "re:" + r"\.".join(part for part in (re.escape(head), *ends) if part)


def _any_of(names: Iterable[str]) -> str:
    escaped = [re.escape(name) for name in names]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"
