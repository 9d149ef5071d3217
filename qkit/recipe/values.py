# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Values of a recipe's tables, checked for their type; each raises RecipeError with the remedy."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from qkit.errors import RecipeError, choices, nearest


def check_keys(table: Mapping[str, Any], known: Collection[str], source: str) -> None:
    """Refuse a key that is not among ``known``."""
    for key in table:
        if key not in known:
            message = (
                f"{source}: unknown key {key!r}.{nearest(key, known)} Known: {choices(known)}."
            )
            raise RecipeError(message)


def subtable(table: Mapping[str, Any], key: str, source: str) -> Mapping[str, Any]:
    """The table under ``key``, empty where there is none."""
    value = table.get(key, {})
    if not isinstance(value, Mapping):
        message = f"{source}: {key} = {value!r} is no table. Write [{key}]."
        raise RecipeError(message)
    return value


def text(table: Mapping[str, Any], key: str, default: str, source: str) -> str:
    """The text under ``key``."""
    value = table.get(key, default)
    if not isinstance(value, str):
        message = f"{source}: {key} = {value!r} is no text. Put it in quotes."
        raise RecipeError(message)
    return value


def flag(table: Mapping[str, Any], key: str, default: bool, source: str) -> bool:
    """The true or false under ``key``."""
    value = table.get(key, default)
    if not isinstance(value, bool):
        message = f"{source}: {key} = {value!r} is neither true nor false. Write one of them."
        raise RecipeError(message)
    return value


def whole(table: Mapping[str, Any], key: str, default: int, least: int, source: str) -> int:
    """The whole number under ``key``, at least ``least``."""
    value = table.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        message = (
            f"{source}: {key} = {value!r} is not possible. Use a whole number from {least} on."
        )
        raise RecipeError(message)
    return value


def one_of(table: Mapping[str, Any], key: str, known: Collection[str], source: str) -> str | None:
    """The name under ``key``, one of ``known``; None where there is none."""
    value = table.get(key)
    if value is None or value in known:
        return value
    hint = nearest(str(value), known)
    message = f"{source}: unknown {key} {value!r}.{hint} Known: {choices(known)}."
    raise RecipeError(message)
