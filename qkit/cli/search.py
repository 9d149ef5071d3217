# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``qkit search``: bits by layer within a budget, as a table and as a recipe."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qkit.cli.console import kept, progress_bars, reported, stderr, stdout

if TYPE_CHECKING:
    from qkit.report.search import SearchReport

NAME = "search.toml"
BUDGET_HELP = (
    "bits=5 (mean of the weights), size=30MB (stored), bitops=200G, or latency=5ms with --times; "
    "repeatable: all hold."
)


@reported
def search(
    run: Annotated[Path, typer.Argument(help="Run folder of `qkit calibrate`.")],
    budget: Annotated[list[str], typer.Option("--budget", "-b", help=BUDGET_HELP)],
    choices: Annotated[
        str | None, typer.Option(help="Weight/input bits that a layer may get: 4/4,4/8,8/8.")
    ] = None,
    times: Annotated[
        Path | None, typer.Option(help="TOML: measured ns per million MACs by weight/input bits.")
    ] = None,
    rounding: Annotated[
        bool, typer.Option(help="Round weights in trials as the run's recipe does; slower.")
    ] = True,
    data: Annotated[
        str | None, typer.Option("--data", "-d", help="Calibrate and measure on these instead.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Pairs to measure on.", min=2)] = 128,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Where the float model lies now.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help=f"Recipe to write (RUN/{NAME}).")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing recipe.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Give each layer its own bits: the best within a budget, found without labels.

    The recipe that comes out is for `qkit calibrate --recipe`.
    """
    from qkit.artifact.checkpoints import drop_checkpoints
    from qkit.artifact.folder import read_run
    from qkit.pipeline.search.search import search as find
    from qkit.recipe.writing import check_recipe_target
    from qkit.report.terminal.search import print_search

    read_run(run)
    target = run / NAME if out is None else out
    check_recipe_target(target, overwrite=overwrite)
    partial = target.with_name(f"{target.name}.partial")
    message = f"what was tried is kept in {partial}; the same command goes on after it."
    with progress_bars() as progress, kept(partial, message):
        found = find(
            run,
            budget,
            choices=choices,
            data=data,
            samples=samples,
            model=model,
            times=times,
            rounding=rounding,
            progress=progress,
            checkpoints=partial,
        )
        found.save(target, overwrite=overwrite)
        drop_checkpoints(partial)
    if as_json:
        typer.echo(json.dumps(found.report.to_dict(), indent=1))
    else:
        print_search(found.report, stdout())
    stderr().print(f"written to {target}; try: {_next(target, found.report)}", markup=False)


def _next(recipe: Path, report: SearchReport) -> str:
    """The command that makes the model."""
    flags = ("--recipe", str(recipe), "--model", report.model, "--data", report.data)
    return shlex.join(("qkit", "calibrate", *flags))
