# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``qkit compare``: several runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qkit.cli.console import reported, stdout
from qkit.cli.pages import write_page
from qkit.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qkit.report.model import ModelReport

TOP = 10
MOST = 8  # what 80 columns hold


@reported
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; the first is the base.")],
    tower: Annotated[str | None, typer.Option(help="Only this tower: image or text.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only layers of this kind.")] = None,
    layer: Annotated[str | None, typer.Option(help="Only layers whose name fits a glob.")] = None,
    top: Annotated[int, typer.Option(help="Layers shown.", min=1)] = TOP,
    show_all: Annotated[bool, typer.Option("--all", help="Show every layer.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write one self-contained page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print reports and layers.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the layers as CSV.")] = False,
) -> None:
    """Compare runs: metrics, size, and the layers that differ most."""
    from qkit.report.differences import compare_layers, differences_csv, differences_dict
    from qkit.report.page.compare import comparison_page
    from qkit.report.select import Selection, select
    from qkit.report.terminal.compare import print_comparison

    reports = _read(runs)
    wanted = Selection(tower, kind, layer, "order", top=None)
    layers = compare_layers([select(report, wanted) for report in reports.values()])
    if html is not None:
        write_page(comparison_page(reports), html)
    if as_json:
        plain = {name: report.to_dict() for name, report in reports.items()}
        layers_json = differences_dict(list(reports), layers)
        typer.echo(json.dumps({"runs": plain, "layers": layers_json}, indent=1))
    elif as_csv:
        typer.echo(differences_csv(list(reports), layers), nl=False)
    elif html is None:
        print_comparison(reports, stdout(), layers, None if show_all else top)


def _read(runs: Sequence[Path]) -> dict[str, ModelReport]:
    """Reports by the shortest names that tell the runs apart.

    Raises:
        DataError: fewer than two runs, the same one twice, or too many.
    """
    from qkit.artifact.folder import read_run
    from qkit.report.model import ModelReport

    if not 2 <= len(runs) <= MOST:
        message = f"{len(runs)} run given. Name 2 to {MOST} run folders."
        raise DataError(message)
    if len({run.resolve() for run in runs}) < len(runs):
        message = f"{runs[0]} and the others are not all different. Name each run once."
        raise DataError(message)
    names = [run.absolute().name for run in runs]
    unique = names if len(set(names)) == len(names) else [str(run) for run in runs]
    return {
        name: ModelReport.from_dict(read_run(run).report)
        for name, run in zip(unique, runs, strict=True)
    }
