# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Where the layers of several runs differ."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qkit.report.layer import LayerReport


@dataclass(frozen=True, slots=True)
class LayerDifference:
    """One layer in several runs.

    Attributes:
        layer: the layer in the first run that has it.
        sqnr_db: local SQNR in each run, dB; None where a run has no such layer.
        changes: dB that each run gains against the first (the first itself: 0); None where one of
            the two has no such layer, infinite where one of them is exact.
        spread: distance of the best and the worst run, dB; None below two runs that have it.
    """

    layer: LayerReport
    sqnr_db: tuple[float | None, ...]
    changes: tuple[float | None, ...]
    spread: float | None


def compare_layers(runs: Sequence[Sequence[LayerReport]]) -> list[LayerDifference]:
    """All layers of all runs, those that differ most first."""
    named = [{layer.name: layer for layer in run} for run in runs]
    names = dict.fromkeys(name for layers in named for name in layers)
    found = [_difference([layers.get(name) for layers in named]) for name in names]
    return sorted(found, key=lambda entry: 1.0 if entry.spread is None else -entry.spread)


def _difference(layers: Sequence[LayerReport | None]) -> LayerDifference:
    values = tuple(layer.local_sqnr_db if layer else None for layer in layers)
    known = [value for value in values if value is not None]
    return LayerDifference(
        layer=next(layer for layer in layers if layer),
        sqnr_db=values,
        changes=tuple(_subtract(value, values[0]) for value in values),
        spread=_subtract(max(known), min(known)) if len(known) > 1 else None,
    )


def _subtract(value: float | None, base: float | None) -> float | None:
    """Difference in dB; two exact layers do not differ."""
    if value is None or base is None:
        return None
    return 0.0 if value == base else value - base


def differences_csv(names: Sequence[str], differences: Sequence[LayerDifference]) -> str:
    """One header and one row a layer: its SQNR in each run; blank where a run has it not."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "tower", "block", *names])
    for entry in differences:
        writer.writerow([entry.layer.name, entry.layer.tower, entry.layer.block, *entry.sqnr_db])
    return text.getvalue()


def differences_dict(
    names: Sequence[str], differences: Sequence[LayerDifference]
) -> list[Mapping[str, Any]]:
    """Plain data for JSON: local SQNR by run; null where exact or missing."""
    return [
        {
            "name": entry.layer.name,
            "sqnr_db": {
                name: None if value is None or math.isinf(value) else value
                for name, value in zip(names, entry.sqnr_db, strict=True)
            },
        }
        for entry in differences
    ]
