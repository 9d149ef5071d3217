# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a fine-tuning brought, in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from qkit.report.names import source_name
from qkit.report.terminal.cells import add_columns, plain_table, titled
from qkit.report.tuning import Gain, TuningReport, gain_rows

TITLE = "accuracy, %; cosine: mean of images and their own texts"


def print_tuning(report: TuningReport, console: Console) -> None:
    """One line on the training, then float, quantized and fine-tuned model side by side."""
    console.print(
        f"{report.images} images, {report.epochs} epochs in {report.seconds:.0f} s: "
        f"loss {report.loss:.3f}, accuracy {100 * report.accuracy:.1f} % on them; "
        f"{report.added:,} parameters added, {100 * report.share:.2f} % of the model"
    )
    if not report.gains:
        return
    table = plain_table()
    table.add_column("data", overflow="fold")
    names = ("figure", "float", "quantized", "P4Q", "regained", "to float")
    add_columns(table, names, left=("figure",))
    for gain in report.gains:
        for cells in _rows(gain):
            table.add_row(*cells)
    console.print()
    console.print(titled(TITLE, table))


def _rows(gain: Gain) -> Iterator[tuple[str, ...]]:
    """The headlines of one evaluation, and the cosine."""
    name = source_name(gain.data)
    for row in gain_rows(gain):
        factor, digits = (100, 1) if row.share else (1, 3)
        base, before, after = (factor * value for value in (row.float, row.quantized, row.tuned))
        shown = (f"{value:.{digits}f}" for value in (base, before, after))
        gained = (f"{after - other:+.{digits}f}" for other in (before, base))
        yield name, row.label, *shown, *gained
        name = ""
