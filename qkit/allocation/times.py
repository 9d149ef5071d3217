# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Measured times of layers by their bits, from a TOML file: no speed is ever guessed."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qkit.allocation.choices import Bits
from qkit.errors import SearchError
from qkit.spec import TOWERS

Times = Mapping[str, Mapping[Bits, float]]
"""Nanoseconds for a million multiply-accumulates, by tower and bits."""

NEEDED = (
    "a TOML file with nanoseconds per million multiply-accumulates by weight/input bits, e.g. "
    "'\"4/8\" = 21.5' (a table [image] or [text] has its own)"
)


def read_times(path: Path) -> Times:
    """Read a file of times; what stands in the table of a tower wins over what stands above all.

    Raises:
        SearchError: it cannot be read, or an entry is no pair of bits with a positive number.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"times {path} cannot be read: {error.strerror}. Check the path of --times."
        raise SearchError(message) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = f"times {path} is no valid TOML: {error}. Mend that line."
        raise SearchError(message) from error
    common = _entries({k: v for k, v in table.items() if k not in TOWERS}, path)
    return {tower: common | _entries(_table(table, tower, path), path) for tower in TOWERS}


def time_of(times: Times, tower: str, bits: Bits) -> float:
    """Nanoseconds per million multiply-accumulates.

    Raises:
        SearchError: they were not measured.
    """
    if bits not in times[tower]:
        message = (
            f"--times has no time of {bits} in the {tower} tower. Measure it and add "
            f'"{bits}" = NANOSECONDS, or leave it out of --choices.'
        )
        raise SearchError(message)
    return times[tower][bits]


def _table(table: Mapping[str, Any], tower: str, path: Path) -> Mapping[str, Any]:
    found = table.get(tower, {})
    if not isinstance(found, Mapping):
        message = f"times {path}: {tower} = {found!r} is no table. Write [{tower}]."
        raise SearchError(message)
    return found


def _entries(table: Mapping[str, Any], path: Path) -> dict[Bits, float]:
    found: dict[Bits, float] = {}
    for key, value in table.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < float("inf"):
            message = (
                f"times {path}: {key} = {value!r} is no time. Give nanoseconds per million "
                "multiply-accumulates, above 0."
            )
            raise SearchError(message)
        try:
            found[Bits.parse(key)] = float(value)
        except SearchError:
            message = f'times {path}: {key!r} is no pair of bits. Write "4/8" = NANOSECONDS.'
            raise SearchError(message) from None
    return found
