# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The proof of an export in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qkit.report.export import BackendProof, ExportReport, TowerProof
from qkit.report.terminal.cells import add_columns, percent, plain_table, titled

HEADS = ("", "tower", "cosine", "least", "diff", "int8", "top-1 %")
NOTE = (
    "features against the simulated model's, on {samples} images and {samples} texts of {data}: "
    "mean and least cosine, largest difference; int8: products that the backend runs on int8 "
    "kernels, of those that are integers in the file; top-1: how often the same text is nearest "
    "to an image; sums of floats: the simulated model itself when it sums floats, since rounding "
    "amplifies their last bits"
)
MB = 1e6


def print_export(report: ExportReport, console: Console) -> None:
    """Print what was compared, the files, and what computes in float."""
    table = plain_table()
    add_columns(table, HEADS, left=("", "tower"))
    for proof in (report.float_sums, *report.proofs):
        _add_rows(table, proof)
        table.add_section()
    console.print(titled(report.format, table))
    console.print(Text(NOTE.format(samples=report.samples, data=report.data), style="dim"))
    bounds = ", ".join(f"{tower} {bound:.4f}" for tower, bound in report.bounds.items())
    files = ", ".join(f"{name} {size / MB:.1f} MB" for name, size in report.files.items())
    console.print(Text(f"accepted from a cosine of: {bounds}\n{files}"))
    for reason, count in report.reasons.most_common():
        said = f"{count} of {report.layers} layers compute in float ({reason})"
        console.print(Text(said, style="dim"))


def _add_rows(table: Table, proof: BackendProof) -> None:
    for index, tower in enumerate(proof.towers):
        table.add_row(
            "" if index else proof.backend,
            tower.tower,
            f"{tower.mean_cosine:.5f}",
            f"{tower.least_cosine:.5f}",
            f"{tower.largest_difference:.2g}",
            _products(tower),
            "" if index else percent(proof.agreement, 1),
        )


def _products(tower: TowerProof) -> str:
    if tower.integer_products is None:
        return ""
    return f"{tower.integer_products}/{tower.products}"
