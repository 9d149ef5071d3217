# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What stands in one cell: numbers, bars, heat, sparklines. Colour only repeats what glyphs say."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

HEIGHTS = " ▁▂▃▄▅▆▇█"
LENGTHS = " ▏▎▍▌▋▊▉█"
CLEAN = 40.0  # dB of SQNR at which a bar or a heat cell is empty; at 0 dB it is full
POOR, FAIR = 10.0, 20.0


def db(value: float | None) -> str:
    """Decibels; blank where there are none, "exact" where nothing is lost."""
    if value is None:
        return ""
    return "exact" if math.isinf(value) else f"{value:.1f}"


def percent(value: float | None, digits: int = 0) -> str:
    """A share in percent, without the sign; blank where there is none."""
    return "" if value is None else f"{100 * value:.{digits}f}"


def error_share(sqnr: float) -> float:
    """How full a bar is for an SQNR in dB: 1 at 0 dB and below, 0 at 40 dB and above."""
    return min(1.0, max(0.0, 1 - sqnr / CLEAN))


def style_of(sqnr: float) -> str:
    """Colour of an SQNR."""
    return "red" if sqnr < POOR else "yellow" if sqnr < FAIR else "green"


def bar(sqnr: float, width: int) -> Text:
    """An error as a bar of at most ``width`` cells, longer for less SQNR."""
    return Text(filled(error_share(sqnr), width), style=style_of(sqnr))


def filled(share: float, width: int) -> str:
    """A share of ``width`` cells, to an eighth of a cell."""
    full, rest = divmod(round(share * width * 8), 8)
    return "█" * full + (LENGTHS[rest] if rest else "")


def heat(values: Sequence[float], width: int = 1) -> Text:
    """A strip of SQNR values, one cell of ``width`` characters each, higher for less SQNR."""
    strip = Text()
    for value in values:
        glyph = HEIGHTS[max(1, round(error_share(value) * 8))]
        strip.append(glyph * width, style=style_of(value))
    return strip


def sparkline(counts: Sequence[float], width: int) -> str:
    """A histogram in ``width`` cells, logarithmic; a cell that holds anything is never blank."""
    parts = [
        sum(counts[len(counts) * i // width : len(counts) * (i + 1) // width]) for i in range(width)
    ]
    most = math.log1p(max(parts, default=0.0))
    if most == 0:
        return " " * width
    return "".join(HEIGHTS[math.ceil(8 * math.log1p(part) / most)] for part in parts)


def plain_table() -> Table:
    """A table without lines."""
    return Table(box=None, pad_edge=False)


def titled(title: str, table: Table) -> Group:
    """A table below its title, which may be wider than the table."""
    return Group(Text(title, style="italic"), table)


def add_columns(table: Table, names: Sequence[str], left: Sequence[str] = ()) -> None:
    """Add columns, right-aligned but for those in ``left``; only a layer's name may give way."""
    for name in names:
        gives_way = name.endswith("layer")
        table.add_column(name, justify="left" if name in left else "right", no_wrap=not gives_way)
