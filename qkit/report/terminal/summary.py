# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A whole report in the terminal: what it is, how good it is, where the error sits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from qkit.report.layer import BlockReport, LayerReport
from qkit.report.model import ModelReport
from qkit.report.names import short_name, source_name
from qkit.report.select import worst_first
from qkit.report.terminal.cells import add_columns, db, heat, plain_table, titled
from qkit.report.terminal.evaluation import SPACE_NOTE, metric_table, space_table
from qkit.report.terminal.layers import LayerTable

MOST_LEFT = 6
WIDEST_CELL = 3


def print_report(
    report: ModelReport, console: Console, layers: Sequence[LayerReport], sort: str = "alone"
) -> None:
    """Print summary, coverage, accuracy, towers and the layers given, in their order."""
    print_header(report, console)
    if report.metrics:
        console.print(metric_table(report.metrics))
    if report.metrics or report.analyses.spaces:
        print_spaces(report, console)
        console.print()
    console.print(_tower_table(report))
    if report.blocks:
        console.print(HeatStrips(report.blocks))
    console.print()
    print_layers(report, console, layers, sort)


def print_header(report: ModelReport, console: Console) -> None:
    """Print what the model is, its size and its coverage."""
    console.print(Text(f"{report.label}  {report.model}", style="bold"))
    console.print(Text(_size_line(report.size)))
    console.print(Text(_coverage_line(report)))
    console.print(_left_float_table(report))
    console.print()


def print_layers(
    report: ModelReport, console: Console, layers: Sequence[LayerReport], sort: str = "alone"
) -> None:
    """Print a table of some of a report's layers, which are in the order ``sort``."""
    order = {"alone": ", worst first", "order": " as they run"}.get(sort, f" by {sort}")
    title = f"layers{order}: {len(layers)} of {len(report.layers)}"
    console.print(LayerTable(layers, title))


def print_spaces(report: ModelReport, console: Console) -> None:
    """Print the embedding spaces that were compared, if any."""
    found = report.spaces
    short = [source_name(data) for data in found]
    unique = short if len(set(short)) == len(short) else list(found)
    spaces = dict(zip(unique, found.values(), strict=True))
    if spaces:
        console.print()
        console.print(space_table(spaces, "embedding space, float against quantized"))
        console.print(Text(SPACE_NOTE, style="dim"))


class HeatStrips:
    """One cell a block, one line each for what the block makes and what has piled up there."""

    def __init__(self, blocks: Sequence[BlockReport]) -> None:
        self.blocks = blocks

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the strips, their cells as wide as the console allows."""
        towers = {b.tower: [o for o in self.blocks if o.tower == b.tower] for b in self.blocks}
        longest = max(map(len, towers.values()))
        width = max(1, min(WIDEST_CELL, (options.max_width - 18) // longest))
        yield Text("error by block, from ▁ 40 dB or better to █ 0 dB", style="italic")
        yield Text(" " * 15 + _ruler(longest, width), style="dim")
        for tower, blocks in towers.items():
            made = [block.local_sqnr_db for block in blocks]
            piled = [block.cumulative_sqnr_db for block in blocks]
            for name, values in (("makes", made), ("arrives", piled)):
                shown = tower if name == "makes" else ""
                yield Text(f"{shown:6} {name:8}").append_text(heat(values, width))


def _ruler(count: int, width: int) -> str:
    """Block numbers above every fifth cell."""
    line = [" "] * (count * width + 2)
    for index in range(0, count, 5):
        for offset, digit in enumerate(str(index)):
            line[index * width + offset] = digit
    return "".join(line).rstrip()


def _tower_table(report: ModelReport) -> Group:
    table = plain_table()
    names = ("tower", "layers", "embedding cosine", "median dB", "worst dB", "worst layer")
    add_columns(table, names, left=("tower", "worst layer"))
    for tower, cosine in report.embedding_cosine.items():
        mine = worst_first([layer for layer in report.layers if layer.tower == tower])
        if not mine:
            continue
        table.add_row(
            tower,
            str(len(mine)),
            f"{cosine:.4f}",
            db(mine[len(mine) // 2].local_sqnr_db),
            db(mine[0].local_sqnr_db),
            _place(mine[0]),
        )
    return titled("towers (SQNR of layers alone)", table)


def _size_line(size: Mapping[str, int]) -> str:
    before = size["float_bytes"] / 1e6
    if "quantized_bytes" not in size:
        return f"size: {before:.1f} MB in fp32"
    after = size["quantized_bytes"] / 1e6
    return f"size: {before:.1f} MB in fp32, {after:.1f} MB stored, {before / after:.1f}x smaller"


def _coverage_line(report: ModelReport) -> str:
    coverage = report.coverage
    return f"quantized: {coverage.weights:.2%} of weights, {coverage.macs:.2%} of MACs"


def _left_float_table(report: ModelReport) -> Table:
    """What stays in float and why, the largest first."""
    table = Table(box=None, pad_edge=False, header_style="dim", style="dim")
    table.add_column("left in float", overflow="fold")
    add_columns(table, ("weights", "MACs"))
    table.add_column("why", overflow="fold")
    coverage = report.coverage
    largest = sorted(coverage.left_float, key=lambda i: (-i.macs, -i.weights))
    for item in largest[:MOST_LEFT]:
        macs = f"{item.macs / coverage.total_macs:.2%}" if item.macs else ""
        table.add_row(item.what, f"{item.weights / coverage.total_weights:.2%}", macs, item.why)
    return table


def _place(layer: LayerReport) -> str:
    block = "" if layer.block is None else f"block {layer.block} "
    return block + short_name(layer.name)
