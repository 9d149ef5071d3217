# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""All verbs of the command line, one file each."""

from typing import Annotated

import typer

from qkit import __version__
from qkit.cli.bench import bench
from qkit.cli.calibrate import calibrate
from qkit.cli.compare import compare
from qkit.cli.demo import demo
from qkit.cli.doctor import doctor
from qkit.cli.evaluate import evaluate
from qkit.cli.export import export
from qkit.cli.finetune import finetune
from qkit.cli.listing import calibrators, recipes, reconstructions, roundings, transforms
from qkit.cli.report import report
from qkit.cli.search import search

app = typer.Typer(
    name="qkit",
    help="Post-training quantization of CLIP models: every layer covered, every error explained.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command()(calibrate)
app.command()(demo)
app.command()(report)
app.command()(compare)
app.command()(evaluate)
app.command()(search)
app.add_typer(finetune, name="finetune")
app.command()(export)
app.command()(bench)
app.command()(calibrators)
app.command()(transforms)
app.command()(roundings)
app.command()(reconstructions)
app.command()(recipes)
app.command()(doctor)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"qkit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show and exit.")
    ] = False,
) -> None:
    """Post-training quantization of CLIP models."""
