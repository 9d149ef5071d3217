# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Which rule decides which layer: the first that matches; a rule without effect is an error."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from fnmatch import fnmatchcase

from qkit.errors import QkitWarning, RecipeError, nearest
from qkit.graph.layers import Layer
from qkit.recipe.schema import SchemeRule


def matches(rule: SchemeRule, layer: Layer) -> bool:
    """Whether ``rule`` speaks of ``layer``; globs know no hierarchy, so ``*`` crosses dots."""
    if rule.kind not in (None, layer.kind) or rule.tower not in (None, layer.tower):
        return False
    if rule.match.startswith("re:"):
        return re.fullmatch(rule.match.removeprefix("re:"), layer.name) is not None
    return fnmatchcase(layer.name, rule.match)


def decide(rules: Sequence[SchemeRule], layers: Sequence[Layer]) -> dict[str, int | None]:
    """Index of the deciding rule for every layer by name; None where no rule matches.

    Raises:
        RecipeError: a rule matches no layer, or only layers that earlier rules decide.
    """
    decided = {layer.name: _first(rules, layer) for layer in layers}
    for index, rule in enumerate(rules):
        matched = [layer for layer in layers if matches(rule, layer)]
        if not matched:
            raise RecipeError(_no_match(rule, index, layers))
        if index not in decided.values():
            message = (
                f"rule {index + 1} ({rule}) decides nothing: earlier rules match all its layers. "
                "Move it up or remove it."
            )
            raise RecipeError(message)
        _warn_whole_tower(rule, index, matched, layers)
    return decided


def _first(rules: Sequence[SchemeRule], layer: Layer) -> int | None:
    return next((i for i, rule in enumerate(rules) if matches(rule, layer)), None)


def _no_match(rule: SchemeRule, index: int, layers: Sequence[Layer]) -> str:
    hint = nearest(rule.match.removeprefix("re:"), [layer.name for layer in layers])
    example = "" if hint else f" A layer is called {layers[0].name!r}." if layers else ""
    return f"rule {index + 1} ({rule}) matches no layer.{hint}{example} Mend or remove it."


def _warn_whole_tower(
    rule: SchemeRule, index: int, matched: Sequence[Layer], layers: Sequence[Layer]
) -> None:
    """A pattern that happens to cover a tower is how a peer left every image tower in float."""
    meant = rule.match == "*" and not (rule.ignores and rule.tower is None)
    for tower in dict.fromkeys(layer.tower for layer in layers):
        size = sum(layer.tower == tower for layer in layers)
        if not meant and sum(layer.tower == tower for layer in matched) == size:
            what = "leaves it in float" if rule.ignores else "decides all of it"
            message = (
                f"rule {index + 1} ({rule}) matches the whole {tower} tower, {size} layers, and "
                f"{what}. If that is meant, write match = '*' and tower = {tower!r}."
            )
            warnings.warn(message, QkitWarning, stacklevel=2)
