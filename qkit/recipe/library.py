# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Find recipes by name: packages of ``*.toml`` files offered as entry points ``qkit.recipes``."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from qkit.errors import RecipeError, RegistryError, choices, nearest
from qkit.recipe.reading import read_recipe
from qkit.recipe.schema import Recipe

GROUP = "qkit.recipes"


@dataclass(frozen=True, slots=True)
class RecipeInfo:
    """A recipe that can be named: its file and the distribution it came with."""

    name: str
    path: Path
    distribution: str


def list_recipes() -> tuple[RecipeInfo, ...]:
    """All installed recipes by name.

    Raises:
        RegistryError: a package cannot be found, or two offer one name.
    """
    found: dict[str, RecipeInfo] = {}
    for entry in entry_points(group=GROUP):
        distribution = entry.dist.name if entry.dist else "unknown"
        for path in sorted(_folder(entry, distribution).glob("*.toml")):
            other = found.setdefault(path.stem, RecipeInfo(path.stem, path, distribution))
            if other.path != path:
                message = (
                    f"recipe {path.stem!r} is offered by {other.distribution} and {distribution}. "
                    "Uninstall one, or pass the file's path."
                )
                raise RegistryError(message)
    return tuple(found[name] for name in sorted(found))


def load_recipe(name_or_path: str) -> Recipe:
    """Read an installed recipe by name, or a file (anything with ".toml" or a slash in it).

    Raises:
        RecipeError: the name is unknown or the file is wrong.
    """
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        return read_recipe(Path(name_or_path))
    known = {info.name: info.path for info in list_recipes()}
    if name_or_path not in known:
        hint = nearest(name_or_path, known)
        message = f"unknown recipe {name_or_path!r}.{hint} Known: {choices(known)}."
        raise RecipeError(message)
    return read_recipe(known[name_or_path])


def _folder(entry: EntryPoint, distribution: str) -> Path:
    try:
        spec = importlib.util.find_spec(entry.value)
    except ModuleNotFoundError:  # its parent package is missing
        spec = None
    if spec is None or not spec.submodule_search_locations:
        message = (
            f"recipe package {entry.value!r} of {distribution} cannot be found. "
            f"Reinstall or uninstall {distribution}."
        )
        raise RegistryError(message)
    return Path(next(iter(spec.submodule_search_locations)))
