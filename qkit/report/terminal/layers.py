# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Layers in the terminal: figures in one line, cause, evidence and remedy below or beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from qkit.report.layer import LayerReport, TensorReport
from qkit.report.names import place, short_name
from qkit.report.terminal.cells import (
    add_columns,
    bar,
    db,
    percent,
    plain_table,
    sparkline,
    style_of,
)

WIDE = 140  # columns from which the words stand beside the figures
BAR, WIDE_BAR = 7, 12
SPARK = 8
HEADERS = (
    *("where", "layer", "W", "A", "error", "alone", "arrives", "makes", "clip%", "kept%"),
    "values",
)
WIDE_HEADERS = ("weight", "cos", "step")
LEFT = ("where", "layer", "error", "values")
LEGEND = (
    "error: full at 0 dB, empty at 40; alone: SQNR of its output with only it quantized, dB; "
    "arrives: with all before it too; makes: its share of that error; clip, kept: % of its "
    "input's values clipped, of their range kept"
)
WIDE_LEGEND = (
    "; weight: SQNR of the stored weight, dB; cos: of float and quantized output; step: of its grid"
)


class LayerTable:
    """Renders layers as wide as the console is.

    Attributes:
        layers: what to show, in order.
        title: what stands above.
    """

    def __init__(self, layers: Sequence[LayerReport], title: str) -> None:
        self.layers = layers
        self.title = title

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Choose the form that fits."""
        yield Text(self.title, style="italic")
        wide = options.max_width >= WIDE
        if wide:
            yield self._wide()
        else:
            yield from self._narrow(options.max_width)
        yield Text(LEGEND + WIDE_LEGEND if wide else LEGEND, style="dim")

    def _wide(self) -> Table:
        table = plain_table()
        add_columns(table, (*HEADERS, *WIDE_HEADERS), left=LEFT)
        table.add_column("cause, evidence, remedy", overflow="fold", ratio=1)
        for layer in self.layers:
            more = (db(layer.weight_sqnr_db), f"{layer.cosine:.3f}", _step(layer))
            table.add_row(*_figures(layer, WIDE_BAR), *more, _words(layer, " "))
        return table

    def _narrow(self, width: int) -> Iterator[Text | Padding]:
        """Figures in aligned lines, the words of each layer below its line."""
        rows = [tuple(map(Text, HEADERS)), *(_figures(layer, BAR) for layer in self.layers)]
        header, *lines = aligned(rows, width)
        header.stylize("bold")
        yield header
        for layer, line in zip(self.layers, lines, strict=True):
            yield line
            yield Padding(_words(layer, "\n"), (0, 0, 0, 4))


def aligned(rows: Sequence[Sequence[Text]], width: int) -> list[Text]:
    """Rows of cells as lines of equal columns; the second column gives way where it is tight."""
    widths = [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]
    spare = width - sum(widths) - len(widths) + 1
    widths[1] = max(8, widths[1] + min(0, spare))
    return [Text(" ").join(_fitted(row, widths)) for row in rows]


def _fitted(row: Sequence[Text], widths: Sequence[int]) -> Iterator[Text]:
    for name, cell, width in zip(HEADERS, row, widths, strict=True):
        fitted = cell.copy()
        fitted.truncate(width, overflow="ellipsis")
        fitted.align("left" if name in LEFT else "right", width)
        yield fitted


def _words(layer: LayerReport, break_: str) -> Text:
    text = Text.assemble((layer.cause, "bold"), (f": {layer.evidence}", ""))
    shown = shown_tensor(layer)
    if shown is not None and shown.coordinates:
        text.append(f"{break_}{shown.role} before rounding: {shown.coordinates}")
    odd = [f"{t.role} on a {t.grid} grid" for t in layer.tensors if t.grid != "uniform"]
    if odd:
        text.append(break_ + ", ".join(odd))
    return text.append(f"{break_}→ {layer.remedy}")


def _figures(layer: LayerReport, bar_width: int) -> tuple[Text, ...]:
    shown = shown_tensor(layer)
    kept = "" if shown is None else "token" if shown.span is None else percent(shown.span)
    return (
        Text(place(layer)),
        Text(short_name(layer.name)),
        Text(bits(layer.weight_bits, layer.weights > 0)),
        Text(bits(layer.act_bits, layer.kind != "embedding")),
        bar(layer.local_sqnr_db, bar_width),
        Text(db(layer.local_sqnr_db), style=style_of(layer.local_sqnr_db)),
        Text(db(layer.cumulative_sqnr_db), style=style_of(layer.cumulative_sqnr_db)),
        Text(f"{percent(layer.made)}%"),
        Text(percent(layer.clipped, 2)),
        Text(kept),
        Text("" if shown is None else sparkline(shown.values.counts, SPARK)),
    )


def _step(layer: LayerReport) -> str:
    shown = shown_tensor(layer)
    return "" if shown is None or shown.step is None else f"{shown.step:.3g}"


def shown_tensor(layer: LayerReport) -> TensorReport | None:
    """The operand to show: the input, the worst of an attention's, or the weight."""
    inputs = [tensor for tensor in layer.tensors if tensor.role != "weight"]
    gains = layer.trials
    worst = max(inputs, key=lambda t: gains.get(f"{t.role} float", 0.0), default=None)
    return worst or next(iter(layer.tensors), None)


def bits(number: int | None, has_one: bool) -> str:
    """Bits of an operand; blank where there is no such operand, "f" where it is float."""
    return "" if not has_one else "f" if number is None else str(number)
