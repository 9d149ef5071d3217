# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Layers that were searched together, one a line, with the ranges chosen and what that gained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Group

from qkit.calibration.protocol import StageNote
from qkit.report.layer import LayerReport, TensorReport
from qkit.report.names import short_name
from qkit.report.partition import groups_of
from qkit.report.terminal.cells import add_columns, percent, plain_table, titled

PER_TOKEN = "per token"
COLUMNS = ("group", "stage", "layer", "depends", "weight", "input", "start", "error", "gain")
GROUP_LEGEND = (
    "depends: of the next stage on this one, nats; weight, input: % of the range seen that the "
    "grid keeps, of sdpa its query/key/value/probs; start, error: squared error at the group's "
    "end over the float values there, with each layer's own best ranges and with those that the "
    "search chose; gain: from one to the other, dB"
)


def group_table(stages: Sequence[StageNote], layers: Sequence[LayerReport]) -> Group:
    """One row for each of the ``layers`` in a tower's ``stages``; once a group what it gained."""
    table = plain_table()
    table.padding = (0, 1, 0, 0)  # nine columns in 80
    add_columns(table, COLUMNS, left=("stage", "layer"))
    labels = stage_labels(stages)
    for group in groups_of(stages):
        errors = _errors(group[-1])
        for stage in group:
            for layer in (layer for layer in layers if layer.name in stage.layers):
                where = (str(stage.group), labels[stage.name], short_name(layer.name))
                table.add_row(*where, _depends(layer), *clips(layer), *errors)
                errors = ("", "", "")
    return titled(f"{stages[0].tower} tower, layer by layer", table)


def stage_labels(stages: Sequence[StageNote]) -> dict[str, str]:
    """Short names of a tower's stages: "a3" and "m3" are block 3's halves, "3" is all of it."""
    parts = Counter(stage.block for stage in stages)
    return {
        stage.name: ("" if parts[stage.block] == 1 else _half(stage.name)) + str(stage.block)
        for stage in stages
    }


def clips(layer: LayerReport) -> tuple[str, str]:
    """Share of the range seen that the grids of a layer's weight and of its inputs keep, in %."""
    weights = [_kept(tensor) for tensor in layer.tensors if tensor.role == "weight"]
    inputs = [_kept(tensor) for tensor in layer.tensors if tensor.role != "weight"]
    return "".join(weights), PER_TOKEN if {*inputs} == {PER_TOKEN} else "/".join(inputs)


def _half(name: str) -> str:
    return name.rpartition(".")[2][0]


def _kept(tensor: TensorReport) -> str:
    return PER_TOKEN if tensor.span is None else percent(tensor.span)


def _depends(layer: LayerReport) -> str:
    return "" if layer.dependency is None else f"{layer.dependency:.2f}"


def _errors(stage: StageNote) -> tuple[str, str, str]:
    """Error before and after the search of a group, and the dB between them, never "-0.00"."""
    gain = round(stage.gain_db, 2) + 0.0
    return f"{stage.start:#.3g}", f"{stage.error:#.3g}", f"{gain:+.2f}".replace("inf", "∞")
