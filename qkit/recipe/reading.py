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
from qkit.spec import KINDS, TOWERS, Granularity, GridKind, QuantSpec, Scheme

STEPS = ("transform", "calibrator", "rounding", "reconstruction")
TABLES = ("search", "p4q")  # whose keys those check who use them
DEFAULTS = {"weight": WEIGHT, "input": INPUT, "attention": ATTENTION}
OPERANDS = (*DEFAULTS, "probs")
REFUSED = {
    "weight": Granularity.TOKEN,
    "attention": Granularity.CHANNEL,
    "probs": Granularity.CHANNEL,
}
GRIDS: Mapping[str, tuple[GridKind, ...]] = {
    "weight": (GridKind.NORMAL,),
    "input": (GridKind.TWIN_SIGNED, GridKind.SHIFTED_LOG, GridKind.NORMAL),
    "attention": (),
    "probs": (GridKind.LOG2, GridKind.LOG_SQRT2, GridKind.LOG, GridKind.TWIN),
}


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
    check_keys(table, ("summary", "seed", "data", *STEPS, *TABLES, "rule"), source)
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
        **{name: subtable(table, name, source) for name in TABLES if name in table},
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
    check_keys(table, ("match", "kind", "tower", "ignore", *OPERANDS), source)
    match = text(table, "match", "*", source)
    if match.startswith("re:"):
        _check_pattern(match, source)
    kind, tower = (one_of(table, k, v, source) for k, v in (("kind", KINDS), ("tower", TOWERS)))
    if flag(table, "ignore", False, source):
        if extra := sorted(set(table) & set(OPERANDS)):
            message = f"{source}: ignore = true contradicts {choices(extra)}. Keep one of the two."
            raise RecipeError(message)
        return SchemeRule(match, kind, tower, Scheme())
    specs = {name: _spec(table, name, default, source) for name, default in DEFAULTS.items()}
    probs = _probs(table, specs["attention"], source)
    return SchemeRule(match, kind, tower, Scheme(**specs, probs=probs))


def _probs(table: Mapping[str, Any], attention: QuantSpec | None, source: str) -> QuantSpec | None:
    """How the probabilities are rounded where it is not as all operands are."""
    if "probs" not in table:
        return None
    if attention is None or table["probs"] is False:
        message = (
            f"{source}: an attention's operands are rounded all or none. Give both 'attention' and "
            "'probs' bits, or drop 'probs'."
        )
        raise RecipeError(message)
    return _spec(table, "probs", attention, source)


def _spec(table: Mapping[str, Any], name: str, default: QuantSpec, source: str) -> QuantSpec | None:
    value = table.get(name, {})
    if value is False:
        return None
    where = f"{source}, {name}"
    if not isinstance(value, Mapping):
        message = f"{where} = {value!r} is no table. Write {{ bits = 8 }}, or false for float."
        raise RecipeError(message)
    check_keys(value, ("bits", "symmetric", "granularity", "grid"), where)
    grid = one_of(value, "grid", [kind.value for kind in GridKind], where)
    try:
        granularity = Granularity.parse(
            text(value, "granularity", default.granularity.value, where)
        )
        spec = QuantSpec(
            value.get("bits", default.bits),
            flag(value, "symmetric", default.symmetric, where),
            granularity,
            default.grid if grid is None else GridKind(grid),
        )
    except RecipeError as error:
        message = f"{where}: {error}"
        raise RecipeError(message) from error
    check_spec(name, spec, where)
    return spec


def check_spec(name: str, spec: QuantSpec, where: str) -> None:
    """Refuse what a tensor of this role cannot be.

    Raises:
        RecipeError: per-token weights, per-channel attention operands, or a grid that is made for
            other tensors.
    """
    refused = REFUSED.get(name)
    if spec.granularity is refused:
        known = [g.value for g in Granularity if g is not refused]
        message = (
            f"{where}: granularity {refused.value!r} is not possible for {name}. "
            f"Use one of: {choices(known)}."
        )
        raise RecipeError(message)
    if name == "input" and spec.grid is GridKind.NORMAL and not spec.dynamic:
        message = (
            f"{where}: grid = 'normal' has a scale a token, so granularity '{spec.granularity}' is "
            "not possible. Use 'token', or grid = 'uniform'."
        )
        raise RecipeError(message)
    if not spec.uniform and spec.grid not in GRIDS[name]:
        known = [GridKind.UNIFORM, *GRIDS[name]]
        homes = [role for role, kinds in GRIDS.items() if spec.grid in kinds]
        message = (
            f"{where}: grid = '{spec.grid}' is made for {choices(homes)}, not for {name}. "
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
