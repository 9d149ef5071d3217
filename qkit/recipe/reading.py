# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Read a recipe from TOML; whatever it does not know is an error, never ignored."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qkit.errors import RecipeError, choices
from qkit.recipe.schema import (
    ATTENTION,
    INPUT,
    WEIGHT,
    CalibratorConfig,
    Recipe,
    SchemeRule,
    StepConfig,
)
from qkit.recipe.values import check_keys, flag, one_of, subtable, text, whole
from qkit.spec import KINDS, TOWERS, Granularity, QuantSpec, Scheme

STEPS = ("transform", "calibrator", "rounding", "reconstruction")
DEFAULTS = {"weight": WEIGHT, "input": INPUT, "attention": ATTENTION}


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file.

    Raises:
        RecipeError: it is missing, no TOML, or asks for something unknown or impossible.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"recipe {path} cannot be read: {error.strerror}. Check the path."
        raise RecipeError(message) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = f"recipe {path} is no valid TOML: {error}. Mend that line."
        raise RecipeError(message) from error
    return parse_recipe(table, str(path))


def parse_recipe(table: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """Turn the tables of a recipe into a ``Recipe``; ``source`` names it in errors.

    Raises:
        RecipeError: an unknown key, or a value of the wrong type or out of its range.
    """
    check_keys(table, ("summary", "seed", "data", *STEPS, "rule"), source)
    data = subtable(table, "data", source)
    check_keys(data, ("samples", "batch_size"), f"{source}, [data]")
    default = Recipe()
    rules = table.get("rule", [{}])
    if not isinstance(rules, list) or not rules:
        message = f"{source}: 'rule' must be a list of tables. Write [[rule]]."
        raise RecipeError(message)
    return Recipe(
        rules=tuple(parse_rule(rule, f"{source}, rule {i + 1}") for i, rule in enumerate(rules)),
        calibrator=_calibrator(subtable(table, "calibrator", source), source),
        transform=_step(table, "transform", source),
        rounding=_step(table, "rounding", source),
        reconstruction=_step(table, "reconstruction", source),
        samples=whole(data, "samples", default.samples, 1, source),
        batch_size=whole(data, "batch_size", default.batch_size, 1, source),
        seed=whole(table, "seed", default.seed, 0, source),
        summary=text(table, "summary", "", source),
    )


def parse_rule(table: object, source: str) -> SchemeRule:
    """Turn one [[rule]] into a ``SchemeRule``.

    Raises:
        RecipeError: see ``parse_recipe``.
    """
    if not isinstance(table, Mapping):
        message = f"{source} = {table!r} is no table. Write [[rule]]."
        raise RecipeError(message)
    check_keys(table, ("match", "kind", "tower", "ignore", *DEFAULTS), source)
    match = text(table, "match", "*", source)
    if match.startswith("re:"):
        _check_pattern(match, source)
    kind, tower = (one_of(table, k, v, source) for k, v in (("kind", KINDS), ("tower", TOWERS)))
    if flag(table, "ignore", False, source):
        if extra := sorted(set(table) & set(DEFAULTS)):
            message = f"{source}: ignore = true contradicts {choices(extra)}. Keep one of the two."
            raise RecipeError(message)
        return SchemeRule(match, kind, tower, Scheme())
    specs = {name: _spec(table, name, source) for name in DEFAULTS}
    return SchemeRule(match, kind, tower, Scheme(**specs))


def _spec(table: Mapping[str, Any], name: str, source: str) -> QuantSpec | None:
    value, default = table.get(name, {}), DEFAULTS[name]
    if value is False:
        return None
    where = f"{source}, {name}"
    if not isinstance(value, Mapping):
        message = f"{where} = {value!r} is no table. Write {{ bits = 8 }}, or false for float."
        raise RecipeError(message)
    check_keys(value, ("bits", "symmetric", "granularity"), where)
    try:
        granularity = Granularity.parse(
            text(value, "granularity", default.granularity.value, where)
        )
        spec = QuantSpec(
            value.get("bits", default.bits),
            flag(value, "symmetric", default.symmetric, where),
            granularity,
        )
    except RecipeError as error:
        message = f"{where}: {error}"
        raise RecipeError(message) from error
    check_spec(name, spec, where)
    return spec


def check_spec(name: str, spec: QuantSpec, where: str) -> None:
    """Refuse what a tensor of this role cannot be.

    Raises:
        RecipeError: per-token weights, or per-channel attention operands.
    """
    refused = {"weight": Granularity.TOKEN, "attention": Granularity.CHANNEL}.get(name)
    if spec.granularity is refused:
        known = [g.value for g in Granularity if g is not refused]
        message = (
            f"{where}: granularity {refused.value!r} is not possible for {name}. "
            f"Use one of: {choices(known)}."
        )
        raise RecipeError(message)


def _calibrator(table: Mapping[str, Any], source: str) -> CalibratorConfig:
    options = dict(table)
    method = options.pop("method", CalibratorConfig().method)
    if not isinstance(method, str):
        message = f"{source}, [calibrator]: method = {method!r} is no text. Name a calibrator."
        raise RecipeError(message)
    return CalibratorConfig(method, options)


def _step(table: Mapping[str, Any], name: str, source: str) -> StepConfig | None:
    if name not in table:
        return None
    options = dict(subtable(table, name, source))
    method = options.pop("method", None)
    if not isinstance(method, str):
        message = f"{source}, [{name}]: method = {method!r} is no text. Name one, or drop [{name}]."
        raise RecipeError(message)
    return StepConfig(method, options)


def _check_pattern(match: str, source: str) -> None:
    try:
        re.compile(match.removeprefix("re:"))
    except re.error as error:
        message = f"{source}: match = {match!r} is no regular expression: {error}. Mend it."
        raise RecipeError(message) from error
