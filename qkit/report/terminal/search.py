# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A search for mixed precision in the terminal: what each budget buys, and who got what."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from qkit.report.names import source_name
from qkit.report.search import Row, SearchReport, UnitReport
from qkit.report.terminal.cells import add_columns, plain_table, titled

ASKED, OTHER = "→ ", "  "
FRONT_NOTE = (
    "KL of image-text probabilities from the float model's, 1e-3 nats; predicted: the sum over "
    "layers of each alone; measured: all of it together, attention's operands included; bits: mean "
    "of the weights; bitops: G of one image and one text; → what was asked for"
)
GRID_NOTE = (
    "a digit is the bits of one block's weight (W) or input (A), . where it has none; layers "
    "outside of blocks have one digit"
)
COLUMNS = {
    "bits": ("bits", 1.0, "{:.2f}"),
    "size": ("MB", 1e6, "{:.3f}"),
    "bitops": ("bitops", 1e9, "{:.2f}"),
    "latency": ("ms", 1e-3, "{:.3g}"),
}


def print_search(report: SearchReport, console: Console) -> None:
    """Print the table of budgets, then who got how many bits."""
    console.print(front_table(report))
    console.print(Text(FRONT_NOTE, style="dim"))
    console.print()
    console.print(grid_table(report.units))
    console.print(Text(GRID_NOTE, style="dim"))


def front_table(report: SearchReport) -> Group:
    """The best for each budget, all layers alike, and the run, one a row."""
    title = (
        f"best of {', '.join(report.choices)} for a budget: {report.pairs} pairs of "
        f"{source_name(report.data)}, {len(report.units)} units"
    )
    table = plain_table()
    kinds = [kind for kind in COLUMNS if any(kind in row.costs for row in report.front)]
    names = ["at most", *(COLUMNS[kind][0] for kind in kinds), "predicted", "measured"]
    add_columns(table, names, left=("at most",))
    for row in report.front:
        table.add_row(*_cells(row, kinds), style="bold" if row.asked else None)
    _section(table, "all layers alike", report.uniform, kinds)
    _section(table, "searched from", [report.run], kinds)
    return titled(title, table)


def grid_table(units: Sequence[UnitReport]) -> Group:
    """Bits by layer and block; inputs only where they are not all alike."""
    table = plain_table()
    add_columns(table, ("tower", "layer", ""), left=("tower", "layer", ""))
    table.add_column("bits by block", overflow="fold")
    depth = {tower: _depth(units, tower) for tower in dict.fromkeys(u.tower for u in units)}
    inputs = sorted({unit.bits.partition("/")[2] for unit in units if unit.sees_input})
    shown = ""
    for (tower, part), mine in _parts(units).items():
        weights, given = _strips(mine, depth[tower])
        table.add_row("" if tower == shown else tower, Text(part), "W", weights)
        if len(inputs) > 1 and any(unit.sees_input for unit in mine):
            table.add_row("", "", "A", given)
        shown = tower
    alike = f", inputs {inputs[0]} everywhere" if len(inputs) == 1 else ""
    return titled(f"bits that each layer got{alike}", table)


def _section(table: Table, title: str, rows: Sequence[Row], kinds: Sequence[str]) -> None:
    table.add_row(Text(title, style="dim"))
    for row in rows:
        table.add_row(*_cells(row, kinds))


def _cells(row: Row, kinds: Sequence[str]) -> list[str]:
    costs = [
        COLUMNS[kind][2].format(row.costs[kind] / COLUMNS[kind][1]) if kind in row.costs else ""
        for kind in kinds
    ]
    predicted = "" if row.predicted is None else _milli(row.predicted)
    return [(ASKED if row.asked else OTHER) + row.name, *costs, predicted, _milli(row.measured)]


def _milli(nats: float) -> str:
    return f"{1e3 * nats:#.3g}".rstrip(".") if nats < 1 else f"{1e3 * nats:.0f}"


def _parts(units: Sequence[UnitReport]) -> dict[tuple[str, str], list[UnitReport]]:
    """Units by tower and name within their block."""
    found: dict[tuple[str, str], list[UnitReport]] = {}
    for unit in units:
        found.setdefault((unit.tower, unit.part), []).append(unit)
    return dict(sorted(found.items(), key=lambda item: item[0][0]))


def _depth(units: Sequence[UnitReport], tower: str) -> int:
    return 1 + max((u.block for u in units if u.tower == tower and u.block is not None), default=-1)


def _strips(units: Sequence[UnitReport], depth: int) -> tuple[str, str]:
    """One digit a block for weights and for inputs; "." where a block has no such layer."""
    weights, inputs = dict[int, str](), dict[int, str]()
    for unit in units:
        weight, _, input_ = unit.bits.partition("/")
        weights[unit.block or 0] = weight if unit.weights else "."
        inputs[unit.block or 0] = input_ if unit.sees_input else "."
    count = depth if units[0].block is not None else 1
    first, second = ("".join(b.get(i, ".") for i in range(count)) for b in (weights, inputs))
    return first, second
