# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The ``[p4q]`` table of a recipe: how a run that was made by it is to be fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from qkit.errors import TrainingError, choices, nearest
from qkit.p4q.config import AdapterConfig, LossConfig, P4QConfig, PromptConfig

PARTS: Mapping[str, type] = {"prompt": PromptConfig, "adapter": AdapterConfig, "loss": LossConfig}
LEFT_OUT = ("prompt", "adapter")  # parts that ``false`` leaves out
KINDS: Mapping[str, tuple[type, ...]] = {
    "a whole number": (int,),
    "a number": (int, float),
    "true or false": (bool,),
    "a text in quotes": (str,),
}
NO_DEFAULT = {  # options that are None where nothing is said
    "patience": "a whole number",
    "rate": "a number",
    "init": "a text in quotes",
}


def read_config(table: Mapping[str, Any], source: str = "[p4q]") -> P4QConfig:
    """Turn the table into options; what it leaves out is as by default.

    Args:
        table: options by name, and the tables "prompt", "adapter" and "loss"; false in the place of
            "prompt" or "adapter" leaves that part out.
        source: names it in errors; empty for flags, which are named already.

    Raises:
        TrainingError: an unknown key, or a value of the wrong type or out of its range.
    """
    plain = {key: value for key, value in table.items() if key not in PARTS}
    _check(plain, P4QConfig, source, also=tuple(PARTS))
    parts = {key: _part(key, table[key], source) for key in PARTS if key in table}
    try:
        return P4QConfig(**plain, **parts)
    except TrainingError as error:
        message = f"{source}: {error}" if source else str(error)  # flags name themselves
        raise TrainingError(message) from error


def merged(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``table`` with ``changes``, key by key in the tables of parts."""
    found = dict(table)
    for key, value in changes.items():
        before = found.get(key)
        both = isinstance(value, Mapping) and isinstance(before, Mapping)
        found[key] = {**before, **value} if both else value  # type: ignore[dict-item]
    return found


def _part(key: str, value: object, source: str) -> Any:
    if value is False and key in LEFT_OUT:
        return None
    where = f"{source}, {key}" if source else key
    if not isinstance(value, Mapping):
        other = ", or false for none" if key in LEFT_OUT else ""
        message = f"{where} = {value!r} is no table. Write [p4q.{key}]{other}."
        raise TrainingError(message)
    _check(value, PARTS[key], where)
    return PARTS[key](**value)


def _check(
    table: Mapping[str, Any], options: type, source: str, also: tuple[str, ...] = ()
) -> None:
    """Refuse a key that ``options`` do not have, and a value of another type."""
    wanted = {one.name: _kind(one) for one in fields(options) if one.name not in also}
    for key, value in table.items():
        if key not in wanted:
            known = (*wanted, *also)
            message = (
                f"{source}: unknown key {key!r}.{nearest(key, known)} Known: {choices(known)}."
            )
            raise TrainingError(message)
        kind = wanted[key]
        truth = isinstance(value, bool) and kind != "true or false"  # a bool is an int to Python
        if truth or not isinstance(value, KINDS[kind]):
            message = f"{source}: {key} = {value!r} is not possible. Write {kind}."
            raise TrainingError(message)


def _kind(option: Any) -> str:
    """What may be written for an option, by its default."""
    if option.default is None:
        return NO_DEFAULT[option.name]
    assert option.default is not MISSING
    types = {int: "a whole number", float: "a number", bool: "true or false"}
    return types.get(type(option.default), "a text in quotes")
