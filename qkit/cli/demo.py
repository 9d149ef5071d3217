# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``qkit demo``: the whole job on the small model that qkit brings along."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from qkit.cli.console import progress_bars, reported, stdout

if TYPE_CHECKING:
    from qkit.report.model import ModelReport

OUT = Path("runs/demo")
BROKEN = "w4a4-minmax"
SHOWN = 4  # layers in the table of causes
INTRODUCTION = (
    "The model that qkit brings along is a small CLIP: a ViT and a text transformer of 8 blocks "
    "each, trained on drawn scenes of coloured shapes. Every layer of both was quantized in four "
    "ways, from {images} scenes, and tried on others: {labelled} things to name (labelled), "
    "{unseen} in colours and shapes that training never combined (unseen), and {pairs} captions "
    "to find (pairs)."
)
WHY = "why {title!r} breaks"
NEXT = (
    ("{qkit} report {out}/{broken} --html {out}/report.html", "every layer on one page"),
    ("{qkit} compare {out}/w8a8 {out}/{broken}", "where two of the runs differ"),
    ("{qkit} calibrate --bits 6 --method percentile", "other bits, another calibrator, same model"),
)


@reported
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where its run folders go.")] = OUT,
) -> None:
    """Quantize the model that qkit brings along, see it break at 4 bits, and mend it."""
    from qkit.artifact.folder import check_target, read_run
    from qkit.pipeline.demo import STOPS, tour
    from qkit.report.model import ModelReport

    for stop in STOPS:
        check_target(out / stop.name, overwrite=True)
    reports: dict[str, ModelReport] = {}
    with progress_bars() as progress:
        results = list(tour(progress))  # all before any is written: an interrupt leaves nothing
    for stop, result in results:
        result.save(out / stop.name, overwrite=True)
        reports[stop.name] = ModelReport.from_dict(read_run(out / stop.name).report)
    _show(reports, {stop.name: stop.title for stop in STOPS}, out)


def _show(reports: dict[str, ModelReport], titles: dict[str, str], out: Path) -> None:
    """What happened, why, and what to do next."""
    from qkit.report.select import Selection, select
    from qkit.report.terminal.compare import comparison_table
    from qkit.report.terminal.summary import print_layers

    console, broken = stdout(), reports[BROKEN]
    titled = {titles[name]: report for name, report in reports.items()}
    sizes = {metric.data.partition(":")[2]: metric.samples for metric in broken.metrics}
    console.print(INTRODUCTION.format(images=broken.calibration["images"], **sizes))
    console.print()
    console.print(comparison_table(titled, "what happened: % right, and the change against float"))
    console.print()
    console.print(WHY.format(title=titles[BROKEN]), markup=False)
    print_layers(broken, console, select(broken, Selection(top=SHOWN)))
    console.print()
    console.print("try next:")
    for command, purpose in NEXT:
        line = command.format(qkit=_program(), out=shlex.quote(str(out)), broken=BROKEN)
        console.print(Text.assemble("  ", (line, "bold"), f"  # {purpose}"), soft_wrap=True)


def _program() -> str:
    """What to type: where the environment is not activated, the path that this was called by."""
    called = Path(sys.argv[0])
    return "qkit" if called.name != "qkit" or shutil.which("qkit") else str(called)
