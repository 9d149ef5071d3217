# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``qkit report``: read a run's report, ask for more analyses, write it as a page or a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qkit.cli.console import Interrupted, progress_bars, reported, stdout
from qkit.cli.pages import write_page
from qkit.errors import DataError

if TYPE_CHECKING:
    from qkit.pipeline.analyse import Wanted
    from qkit.report.layer import LayerReport
    from qkit.report.model import ModelReport
    from qkit.report.tuning import TuningReport

TOP = 10
KEPT = "what was measured so far is kept; the same command, without --refresh, goes on from there."


@reported
def report(
    run: Annotated[Path, typer.Argument(help="Run folder of `qkit calibrate`.")],
    tower: Annotated[str | None, typer.Option(help="Only this tower: image or text.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="Only linear, conv, embedding, projection or attention.")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Only layers whose name fits a glob.")] = None,
    sort: Annotated[
        str,
        typer.Option(
            help="alone, arrives, makes, weight, cosine, clip, size, name, order, sensitivity."
        ),
    ] = "alone",
    top: Annotated[int, typer.Option(help="Layers shown.", min=1)] = TOP,
    show_all: Annotated[bool, typer.Option("--all", help="Show every layer.")] = False,
    tree: Annotated[bool, typer.Option("--tree", help="Layers as a tree of blocks.")] = False,
    blocks: Annotated[
        bool, typer.Option("--blocks", help="Layers that were searched together, and the gain.")
    ] = False,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Quantize, and spare, one layer at a time.")
    ] = False,
    parts: Annotated[
        bool, typer.Option("--parts", help="Weights only, activations only, one tower only.")
    ] = False,
    space: Annotated[
        bool, typer.Option("--space", help="Embeddings, rankings and confidence.")
    ] = False,
    data: Annotated[
        str | None, typer.Option("--data", "-d", help="Analyse these instead of calibration data.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Pairs to analyse on.", min=2)] = 32,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Where the float model lies now.")
    ] = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Analyse again what is known already.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Write one self-contained page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the layers as CSV.")] = False,
) -> None:
    """Show where a run's error comes from: worst layers first, each with cause and remedy."""
    from qkit.pipeline.analyse import Wanted
    from qkit.report.select import Selection, select

    wanted = Wanted(sensitivity, parts, space, data, samples, model, refresh)
    _check_use(wanted)
    whole = _load(run, wanted)
    found = select(whole, Selection(tower, kind, layer, sort, top=None))
    if html is not None:
        from qkit.pipeline.examples import example_images
        from qkit.report.page.report import report_page

        write_page(report_page(whole, example_images(whole), _tuning(run)), html)
    if as_json:
        typer.echo(json.dumps(whole.to_dict(), indent=1))
    elif as_csv:
        from qkit.report.table import layers_csv

        typer.echo(layers_csv(found), nl=False)
    elif tree:
        from qkit.report.terminal.tree import layer_tree

        stdout().print(layer_tree(whole, found))
    elif blocks:
        from qkit.report.terminal.partition import print_partition

        print_partition(whole, stdout(), found)
    elif html is None:
        _print(whole, found, None if show_all else top, None if wanted.any else sort)
        _print_tuning(run)


def _check_use(wanted: Wanted) -> None:
    """Refuse flags of analyses where none is asked for.

    Raises:
        DataError: they would be ignored.
    """
    named = (("--data", wanted.data), ("--model", wanted.model), ("--refresh", wanted.refresh))
    for flag, value in named:
        if value and not wanted.any:
            message = f"{flag} needs an analysis. Add --sensitivity, --parts or --space."
            raise DataError(message)


def _load(run: Path, wanted: Wanted) -> ModelReport:
    """The report, after the analyses that are wanted."""
    from qkit.artifact.folder import read_run
    from qkit.report.model import ModelReport

    if not wanted.any:
        return ModelReport.from_dict(read_run(run).report)
    from qkit.pipeline.analyse import analyse

    try:
        with progress_bars() as progress:
            return analyse(run, wanted, progress)
    except KeyboardInterrupt:
        raise Interrupted(KEPT) from None


def _print(whole: ModelReport, found: list[LayerReport], top: int | None, sort: str | None) -> None:
    """Tables in the terminal: everything, or without ``sort`` what was asked to be analysed."""
    from qkit.report.terminal.analyses import print_analyses
    from qkit.report.terminal.summary import print_report, print_spaces

    console = stdout()
    if sort is None:
        print_spaces(whole, console)
    else:
        print_report(whole, console, found[:top], sort)
    print_analyses(whole, console, found, top)


def _tuning(run: Path) -> TuningReport | None:
    """What a fine-tuning brought, where there was one."""
    from qkit.artifact.folder import read_run
    from qkit.report.tuning import read_tuning

    return read_tuning(read_run(run).manifest)


def _print_tuning(run: Path) -> None:
    from qkit.report.terminal.tuning import print_tuning

    tuning = _tuning(run)
    if tuning is not None:
        stdout().print()
        print_tuning(tuning, stdout())
