# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A benchmark of a run in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from qkit.report.speed import Footprint, SpeedReport, Timing
from qkit.report.terminal.cells import add_columns, plain_table, titled

NOTE = (
    "median ± distance between the quartiles, models in turn in one process; x: processor time "
    "against fp32; fp32 and bf16: open_clip's own model, random weights, texts padded as its "
    "tokenizer gives them"
)
EXPORTS_NOTE = "exports: in the runtime they are for, texts cut behind the longest of a batch"
OWN = frozenset({"fp32", "bf16", "int8", "int4"})
SIZES_NOTE = "file: weights; held, peak: memory above the imported packages, in a fresh process"
MB = 1e6


def print_speed(report: SpeedReport, console: Console) -> None:
    """Print timings, sizes, and what did not run in integers."""
    title = f"{report.threads} threads, {report.repeats} repeats after {report.warmup}"
    table = plain_table()
    add_columns(table, ("", "batch", "model", "ms", "cpu ms", "per s", "x"), left=("", "model"))
    before = None
    for row in report.rows:
        place = (row.what, row.batch)
        first = place != before
        if first and before is not None:
            table.add_section()
        names = (row.what, str(row.batch)) if first else ("", "")
        shown = (_ms(row.wall), _ms(row.cpu), f"{row.per_second:.1f}", f"{row.speedup:.2f}")
        table.add_row(*names, row.model, *shown)
        before = place
    console.print(titled(title, table))
    console.print(Text(NOTE, style="dim"))
    if not OWN.issuperset(report.footprints):
        console.print(Text(EXPORTS_NOTE, style="dim"))
    _print_sizes(report, console)


def _print_sizes(report: SpeedReport, console: Console) -> None:
    table = plain_table()
    add_columns(table, ("model", "file MB", "held MB", "peak MB"), left=("model",))
    for name, footprint in report.footprints.items():
        table.add_row(name, *_megabytes(footprint))
    console.print()
    console.print(table)
    console.print(Text(SIZES_NOTE, style="dim"))
    if report.in_float:
        said = "; ".join(f"{count}: {reason}" for reason, count in report.in_float.items())
        count = sum(report.in_float.values())
        note = f"{report.runtime}: {count} of {report.layers} layers compute in float ({said})"
        console.print(Text(note, style="dim"))


def _ms(timing: Timing) -> str:
    return f"{1e3 * timing.median:.1f} ± {1e3 * timing.spread:.1f}"


def _megabytes(footprint: Footprint) -> list[str]:
    values = (footprint.file, footprint.held, footprint.peak)
    return ["-" if value is None else f"{value / MB:.1f}" for value in values]
