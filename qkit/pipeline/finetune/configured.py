# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Where the options of a fine-tuning come from: flags, then a recipe, then the run's own recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qkit.artifact.folder import read_run
from qkit.p4q.config import P4QConfig
from qkit.p4q.table import merged, read_config
from qkit.recipe import load_recipe


def configured(
    run: Path | None, recipe: str | None = None, changes: Mapping[str, Any] | None = None
) -> P4QConfig:
    """The options of a fine-tuning.

    Args:
        run: folder of a calibrated run; the ``[p4q]`` table of its recipe counts where ``recipe``
            is not given.
        recipe: name or TOML file whose ``[p4q]`` table counts.
        changes: win over that table; shaped like it.

    Raises:
        QkitError: a recipe or a table is wrong, or the folder is no run.
    """
    if recipe is not None:
        table, source = load_recipe(recipe).p4q, f"recipe {recipe}, [p4q]"
    elif run is not None:
        table, source = read_run(run).manifest["recipe"].get("p4q"), f"recipe of {run}, [p4q]"
    else:
        table, source = None, "[p4q]"
    if table:
        read_config(table, source)  # by itself, so that an error names its place
    return read_config(merged(table or {}, changes or {}), "")
