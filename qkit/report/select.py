# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Which layers to show, and in which order."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from qkit.calibration.protocol import StageNote
from qkit.errors import DataError, choices, nearest
from qkit.report.layer import LayerReport
from qkit.report.model import ModelReport
from qkit.spec import KINDS, TOWERS

SORTS: dict[str, Callable[[LayerReport], Any]] = {
    "alone": lambda layer: layer.local_sqnr_db,
    "arrives": lambda layer: layer.cumulative_sqnr_db,
    "makes": lambda layer: -layer.made,
    "weight": lambda layer: _last(layer.weight_sqnr_db),
    "cosine": lambda layer: layer.cosine,
    "clip": lambda layer: -(layer.clipped or 0.0),
    "size": lambda layer: -layer.weights,
    "name": lambda layer: layer.name,
}
"""Orders by name, the worst or largest first; "order" and "sensitivity" come beside these."""
ORDERS = (*SORTS, "order", "sensitivity")


@dataclass(frozen=True, slots=True)
class Selection:
    """What a reader asks for.

    Attributes:
        tower: "image", "text" or None for both.
        kind: a layer kind or None for all.
        layer: a glob over layer names, or None for all; matches anywhere in the name.
        sort: one of ``ORDERS``.
        top: how many; None for all.
    """

    tower: str | None = None
    kind: str | None = None
    layer: str | None = None
    sort: str = "alone"
    top: int | None = 10


def select(report: ModelReport, wanted: Selection) -> list[LayerReport]:
    """The layers asked for, in the order asked for.

    Raises:
        DataError: a name is unknown, nothing matches, or there is no sensitivity to sort by.
    """
    _check("tower", wanted.tower, TOWERS)
    _check("kind", wanted.kind, KINDS)
    _check("sort", wanted.sort, ORDERS)
    found = [layer for layer in report.layers if _matches(layer, wanted)]
    if not found:
        message = f"no layer matches {_describe(wanted)}. See the names with --all."
        raise DataError(message)
    return _sorted(report, found, wanted.sort)[: wanted.top]


def select_stages(report: ModelReport, layers: Sequence[LayerReport]) -> list[StageNote]:
    """The stages of all towers that ``layers`` lie in.

    Raises:
        DataError: the calibrator searched no groups of layers there.
    """
    towers = {layer.tower for layer in layers}
    found = [stage for stage in report.partition.stages if stage.tower in towers]
    if not report.partition.stages and not report.partition.threshold:
        message = (
            f"this run was calibrated with {report.label}, which searched no blocks of layers. "
            "Calibrate with --method entropy, in its default mode."
        )
        raise DataError(message)
    if not found:
        message = (
            f"no blocks were searched in the tower {choices(sorted(towers))}: its scales were "
            "chosen layer by layer. See its layers without --blocks."
        )
        raise DataError(message)
    return found


def worst_first(layers: Sequence[LayerReport]) -> list[LayerReport]:
    """Layers by their own fault, the least local SQNR first."""
    return sorted(layers, key=lambda layer: (layer.local_sqnr_db, layer.name))


def _sorted(report: ModelReport, layers: list[LayerReport], sort: str) -> list[LayerReport]:
    if sort == "order":
        return layers
    if sort != "sensitivity":
        return sorted(layers, key=lambda layer: (SORTS[sort](layer), layer.name))
    if report.analyses.sensitivity is None:
        message = "this run's sensitivity was not measured yet. Add --sensitivity."
        raise DataError(message)
    kl = {entry.name: entry.alone.logit_kl for entry in report.analyses.sensitivity.layers}
    return sorted(layers, key=lambda layer: -kl.get(layer.name, 0.0))


def _matches(layer: LayerReport, wanted: Selection) -> bool:
    return (
        wanted.tower in (None, layer.tower)
        and wanted.kind in (None, layer.kind)
        and (wanted.layer is None or fnmatch.fnmatchcase(layer.name, f"*{wanted.layer}*"))
    )


def _check(what: str, name: str | None, known: Sequence[str]) -> None:
    if name is not None and name not in known:
        message = f"unknown {what} {name!r}.{nearest(name, known)} Known: {choices(known)}."
        raise DataError(message)


def _describe(wanted: Selection) -> str:
    flags = (("tower", wanted.tower), ("kind", wanted.kind), ("layer", wanted.layer))
    return " ".join(f"--{name} {value}" for name, value in flags if value is not None)


def _last(value: float | None) -> float:
    return float("inf") if value is None else value
