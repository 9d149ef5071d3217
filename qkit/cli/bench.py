# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``qkit bench``: how fast a run is."""

import json
from pathlib import Path
from typing import Annotated

import typer

from qkit.cli.console import progress_bars, reported, stdout


@reported
def bench(
    run: Annotated[Path, typer.Argument(help="Run folder of `qkit calibrate`.")],
    batch_size: Annotated[
        list[int] | None, typer.Option("--batch-size", "-b", help="At once; repeatable (1, 16).")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="image, captions or 'full texts'; repeatable (all).")
    ] = None,
    export: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of `qkit export RUN` to time as well; repeatable."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="For torch (as many as it has).", min=1)
    ] = None,
    warmup: Annotated[int, typer.Option(help="Batches before the clock runs.", min=0)] = 1,
    repeats: Annotated[int, typer.Option(help="Batches measured.", min=1)] = 5,
    memory: Annotated[bool, typer.Option(help="Measure memory, in processes of their own.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Time a run's integer model, and its exports, beside fp32 and bf16, in turn in one process."""
    from qkit.errors import DataError, choices, nearest
    from qkit.pipeline.bench.bench import bench as measure
    from qkit.pipeline.bench.contenders import WHAT
    from qkit.report.terminal.speed import print_speed

    for name in only or ():
        if name not in WHAT:
            message = f"unknown --only {name!r}.{nearest(name, WHAT)} Use: {choices(WHAT)}."
            raise DataError(message)
    with progress_bars() as progress:
        report = measure(
            run,
            batch_sizes=batch_size or (1, 16),
            what=only or WHAT,
            exports=export or (),
            thread_count=threads,
            warmup=warmup,
            repeats=repeats,
            memory=memory,
            progress=progress,
        )
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=1))
    else:
        print_speed(report, stdout())
