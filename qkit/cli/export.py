# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``qkit export``: a run in another format, loaded back and compared."""

import json
from pathlib import Path
from typing import Annotated

import typer

from qkit.cli.console import progress_bars, reported, stderr, stdout
from qkit.errors import ExportError

FORMAT_HELP = "onnx, openvino, or compiled (ahead of time, by torch)."
DATA_HELP = (
    "What to compare on: captions:CSV, classes:DIR, images:DIR or demo:PART; repeatable "
    "(demo:calib)."
)
COSINE_HELP = (
    "Fail below this mean cosine to the simulated model (twice as far as sums of floats are)."
)


@reported
def export(
    run: Annotated[Path, typer.Argument(help="Run folder of `qkit calibrate`.")],
    format: Annotated[str | None, typer.Option("--format", "-f", help=FORMAT_HELP)] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write.")] = None,
    data: Annotated[list[str] | None, typer.Option("--data", "-d", help=DATA_HELP)] = None,
    samples: Annotated[int, typer.Option(help="Images, and texts, to compare on.")] = 64,
    seed: Annotated[int, typer.Option(help="Of their draw.")] = 0,
    min_cosine: Annotated[float | None, typer.Option(help=COSINE_HELP)] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing export.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print export.json instead.")] = False,
) -> None:
    """Write both towers in another format, their integers kept; load them back and compare.

    Exit code 1 where the export does not compute what the run does.
    """
    from qkit.data.source import join_sources
    from qkit.exports.formats import FORMATS
    from qkit.pipeline.export.export import export as write
    from qkit.pipeline.export.export import require_passed
    from qkit.report.terminal.export import print_export

    if format is None or out is None:
        missing = "--format" if format is None else "--out"
        message = f"{missing} is missing. Give --format {'|'.join(FORMATS)} and --out FOLDER."
        raise ExportError(message)
    with progress_bars() as progress:
        report = write(
            run,
            format,
            out,
            data=join_sources(data) if data else None,
            samples=samples,
            seed=seed,
            min_cosine=min_cosine,
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=1))
    else:
        print_export(report, stdout())
    require_passed(report)
    stderr().print(f"written to {out}, with the proof in export.json", markup=False)
