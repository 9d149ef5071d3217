# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Read a recipe from TOML; whatever it does not know is an error, never ignored."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from qkit.errors import RecipeError, choices, nearest
from qkit.recipe.schema import ATTENTION, INPUT, WEIGHT, CalibratorConfig, Recipe, SchemeRule
from qkit.spec import KINDS, TOWERS, Granularity, QuantSpec, Scheme

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
    _check_keys(table, ("summary", "seed", "data", "calibrator", "rule"), source)
    data = _table(table, "data", source)
    _check_keys(data, ("samples", "batch_size"), f"{source}, [data]")
    default = Recipe()
    rules = table.get("rule", [{}])
    if not isinstance(rules, list) or not rules:
        message = f"{source}: 'rule' must be a list of tables. Write [[rule]]."
        raise RecipeError(message)
    return Recipe(
        rules=tuple(parse_rule(rule, f"{source}, rule {i + 1}") for i, rule in enumerate(rules)),
        calibrator=_calibrator(_table(table, "calibrator", source), source),
        samples=_whole(data, "samples", default.samples, 1, source),
        batch_size=_whole(data, "batch_size", default.batch_size, 1, source),
        seed=_whole(table, "seed", default.seed, 0, source),
        summary=_text(table, "summary", "", source),
    )


def parse_rule(table: object, source: str) -> SchemeRule:
    """Turn one [[rule]] into a ``SchemeRule``.

    Raises:
        RecipeError: see ``parse_recipe``.
    """
    if not isinstance(table, Mapping):
        message = f"{source} = {table!r} is no table. Write [[rule]]."
        raise RecipeError(message)
    _check_keys(table, ("match", "kind", "tower", "ignore", *DEFAULTS), source)
    match = _text(table, "match", "*", source)
    if match.startswith("re:"):
        _check_pattern(match, source)
    kind, tower = (_one_of(table, k, v, source) for k, v in (("kind", KINDS), ("tower", TOWERS)))
    if _flag(table, "ignore", False, source):
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
    _check_keys(value, ("bits", "symmetric", "granularity"), where)
    try:
        granularity = Granularity.parse(
            _text(value, "granularity", default.granularity.value, where)
        )
        spec = QuantSpec(
            value.get("bits", default.bits),
            _flag(value, "symmetric", default.symmetric, where),
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


def _check_keys(table: Mapping[str, Any], known: Collection[str], source: str) -> None:
    for key in table:
        if key not in known:
            message = (
                f"{source}: unknown key {key!r}.{nearest(key, known)} Known: {choices(known)}."
            )
            raise RecipeError(message)


def _check_pattern(match: str, source: str) -> None:
    try:
        re.compile(match.removeprefix("re:"))
    except re.error as error:
        message = f"{source}: match = {match!r} is no regular expression: {error}. Mend it."
        raise RecipeError(message) from error


def _table(table: Mapping[str, Any], key: str, source: str) -> Mapping[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, Mapping):
        message = f"{source}: {key} = {value!r} is no table. Write [{key}]."
        raise RecipeError(message)
    return value


def _text(table: Mapping[str, Any], key: str, default: str, source: str) -> str:
    value = table.get(key, default)
    if not isinstance(value, str):
        message = f"{source}: {key} = {value!r} is no text. Put it in quotes."
        raise RecipeError(message)
    return value


def _flag(table: Mapping[str, Any], key: str, default: bool, source: str) -> bool:
    value = table.get(key, default)
    if not isinstance(value, bool):
        message = f"{source}: {key} = {value!r} is neither true nor false. Write one of them."
        raise RecipeError(message)
    return value


def _whole(table: Mapping[str, Any], key: str, default: int, least: int, source: str) -> int:
    value = table.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        message = (
            f"{source}: {key} = {value!r} is not possible. Use a whole number from {least} on."
        )
        raise RecipeError(message)
    return value


def _one_of(table: Mapping[str, Any], key: str, known: Collection[str], source: str) -> str | None:
    value = table.get(key)
    if value is None or value in known:
        return value
    hint = nearest(str(value), known)
    message = f"{source}: unknown {key} {value!r}.{hint} Known: {choices(known)}."
    raise RecipeError(message)
