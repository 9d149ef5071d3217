# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Write a recipe as the TOML file that ``qkit calibrate --recipe`` reads."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from qkit.errors import RecipeError
from qkit.recipe.schema import Recipe

BARE = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(recipe: Recipe) -> str:
    """The text of a recipe file; reading it gives an equal recipe."""
    table = recipe.to_dict()
    rules = table.pop("rule")
    steps = {name: step for name, step in table.items() if isinstance(step, Mapping)}
    plain = {name: value for name, value in table.items() if name not in steps}
    parts = [_lines(plain)]
    parts += [[f"[{name}]", *_lines(step)] for name, step in steps.items()]
    parts += [["[[rule]]", *_lines(rule)] for rule in rules]
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def write_recipe(path: Path, recipe: Recipe, *, overwrite: bool = False) -> None:
    """Write a recipe file; an interruption leaves what was there.

    Raises:
        RecipeError: see ``check_recipe_target``, or the disk refused.
    """
    check_recipe_target(path, overwrite=overwrite)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(to_toml(recipe), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise RecipeError(_unwritable(path, str(error.strerror))) from error
    finally:
        with suppress(OSError):  # a read-only disk refuses to remove even what is not there
            partial.unlink(missing_ok=True)


def check_recipe_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a file that cannot or must not be written, before any work is done.

    Raises:
        RecipeError: it exists and may not be replaced, is no TOML file or cannot be written.
    """
    if path.suffix != ".toml":
        message = f"{path} is no name for a recipe. Let --out end in .toml."
        raise RecipeError(message)
    if path.is_dir():
        raise RecipeError(_unwritable(path, "it is a folder"))
    if path.exists() and not overwrite:
        message = f"{path} exists. Choose another --out, or pass --overwrite to replace it."
        raise RecipeError(message)
    if not path.absolute().parent.is_dir():
        raise RecipeError(_unwritable(path, "its folder does not exist"))
    if not os.access(path.absolute().parent, os.W_OK):
        raise RecipeError(_unwritable(path, "its folder is read-only"))


def _unwritable(path: Path, fact: str) -> str:
    return f"{path} cannot be written: {fact}. Choose another --out."


def _lines(table: Mapping[str, Any]) -> list[str]:
    return [f"{_key(name)} = {_value(value)}" for name, value in table.items()]


def _key(name: str) -> str:
    return name if BARE.fullmatch(name) else _text(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(_lines(value)) + " }" if value else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return repr(value)  # of whole numbers and floats, infinite ones included


def _text(value: str) -> str:
    """A pattern with its backslashes as they are, where it may; anything else escaped."""
    if "\\" in value and "'" not in value and value.isprintable():
        return f"'{value}'"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
