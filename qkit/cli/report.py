# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``qkit report``: read a run folder's report again."""

import json
from pathlib import Path
from typing import Annotated

import typer

from qkit.cli.console import reported, stdout


@reported
def report(
    run: Annotated[Path, typer.Argument(help="Run folder of `qkit calibrate`.")],
    top: Annotated[int, typer.Option(help="Worst layers shown.", min=1)] = 10,
    show_all: Annotated[bool, typer.Option("--all", help="Show every layer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json.")] = False,
) -> None:
    """Show the per-layer error table of a run, worst layers first."""
    from qkit.artifact.folder import read_run
    from qkit.report.model import ModelReport
    from qkit.report.render import print_report

    content = read_run(run).report
    if as_json:
        typer.echo(json.dumps(content, indent=1))
        return
    print_report(ModelReport.from_dict(content), stdout(), top=None if show_all else top)
