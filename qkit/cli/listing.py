# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``qkit calibrators``, ``transforms`` and the like, and ``recipes``: what can be named."""

from __future__ import annotations

import dataclasses
import inspect
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from qkit.cli.console import reported, stdout
from qkit.errors import RegistryError

if TYPE_CHECKING:
    from qkit.calibration.registry import Registry

AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


@reported
def calibrators(as_json: AsJson = False) -> None:
    """List the calibrators that --method takes, with their options."""
    from qkit.calibration.registry import CALIBRATORS

    _show(_plugins(CALIBRATORS), as_json)


@reported
def transforms(as_json: AsJson = False) -> None:
    """List what the transform of a recipe can name, with options."""
    from qkit.calibration.registry import TRANSFORMS

    _show(_plugins(TRANSFORMS), as_json)


@reported
def roundings(as_json: AsJson = False) -> None:
    """List what the rounding of a recipe can name, with options."""
    from qkit.calibration.registry import ROUNDINGS

    _show(_plugins(ROUNDINGS), as_json)


@reported
def reconstructions(as_json: AsJson = False) -> None:
    """List what the reconstruction of a recipe can name, with options."""
    from qkit.calibration.registry import RECONSTRUCTIONS

    _show(_plugins(RECONSTRUCTIONS), as_json)


@reported
def recipes(as_json: AsJson = False) -> None:
    """List the recipes that --recipe takes."""
    from qkit.recipe import list_recipes, load_recipe

    rows = [
        {
            "name": info.name,
            "from": info.distribution,
            "method": (recipe := load_recipe(info.name)).calibrator.method,
            "summary": recipe.summary,
        }
        for info in list_recipes()
    ]
    _show(rows, as_json)


def _plugins(registry: Registry) -> list[dict[str, Any]]:
    return [
        {"name": info.name, "from": info.distribution, **_describe(registry, info.name)}
        for info in registry.list()
    ]


def _describe(registry: Registry, name: str) -> dict[str, Any]:
    """Summary and options of a plug-in; one that fails to import is told, not hidden."""
    try:
        cls: Any = registry.load(name)
    except RegistryError as error:
        return {"summary": f"cannot be used: {error}", "options": {}}
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    options = {f.name: None if f.default is dataclasses.MISSING else f.default for f in fields}
    summary = (inspect.getdoc(cls) or "").partition("\n\n")[0].replace("\n", " ")
    return {"summary": summary, "options": options}


def _show(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    columns = [key for key in rows[0] if key != "from"] if rows else []
    table = Table(*columns, *(["from"] if rows else []), box=None, pad_edge=False)
    for row in rows:
        cells = [_cell(row[key]) for key in columns]
        table.add_row(*cells, row["from"])
    stdout().print(table)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}={item}" for key, item in value.items()) or "-"
    return str(value)
