# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Numbers and names as text for the pages; None is shown as nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

Unit = Literal["percent", "number"]


def percent(share: float | None, digits: int = 1) -> str:
    """Share of 1 as a percentage, without the sign."""
    return "" if share is None else _minus(f"{100 * share:.{digits}f}")


def number(value: float | None, digits: int = 3) -> str:
    """A number of any magnitude, to so many significant digits."""
    if value is None:
        return ""
    small = value != 0 and abs(value) < 1e-3
    return _minus(f"{value:.{digits}g}" if small or abs(value) >= 1e4 else f"{value:#.{digits}g}")


def fixed(value: float | None, digits: int = 3) -> str:
    """A number to so many decimals."""
    return "" if value is None else _minus(f"{value:.{digits}f}")


def decibels(value: float | None) -> str:
    """One decimal; "exact" where nothing is lost."""
    return "exact" if value == math.inf else fixed(value, 1)


def difference(value: float | None, digits: int = 1) -> str:
    """A number with its sign; the sign of infinity where one side is exact."""
    if value is None:
        return ""
    return _minus(f"{value:+.{digits}f}".replace("inf", "\N{INFINITY}"))


def quantity(value: float, unit: Unit) -> str:
    """A figure in its unit."""
    if unit == "percent":
        return percent(value)
    return number(value) if 0 < abs(value) < 1e-3 else fixed(value, 4)


def change(before: float | None, after: float | None, unit: Unit = "percent") -> str:
    """What is added from ``before`` to ``after``, percentages in points."""
    if before is None or after is None:
        return ""
    return difference((100 if unit == "percent" else 1) * (after - before), _digits(unit))


def megabytes(size: int) -> str:
    """Bytes in millions."""
    return f"{size / 1e6:.1f}"


def count(value: float) -> str:
    """A large number with three digits and a unit: 24.6 M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.3g}"


def sort_key(value: float | None) -> str:
    """What a table sorts by: nothing, and so the last place, for None and infinite dB."""
    return "" if value is None or not math.isfinite(value) else repr(value)


def listing(items: Mapping[str, object] | Sequence[tuple[str, object]]) -> str:
    """Names with their values, None as float: weight 4, input 8."""
    pairs = items.items() if isinstance(items, Mapping) else items
    return ", ".join(f"{name} {'float' if value is None else value}" for name, value in pairs)


def _digits(unit: Unit) -> int:
    return 1 if unit == "percent" else 4


def _minus(text: str) -> str:
    return text if "e" in text else text.replace("-", "\N{MINUS SIGN}")
