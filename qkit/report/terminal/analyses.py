# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Analyses in the terminal: one layer at a time, one part at a time."""

from __future__ import annotations

from collections.abc import Collection

from rich.console import Console, Group
from rich.text import Text

from qkit.report.analyses import LayerSensitivity, Sensitivity
from qkit.report.layer import LayerReport
from qkit.report.model import ModelReport
from qkit.report.names import place, short_name, source_name
from qkit.report.terminal.cells import add_columns, filled, plain_table, titled
from qkit.report.terminal.evaluation import SPACE_NOTE, space_table

BAR = 12
SENSITIVITY_NOTE = (
    "alone: KL with only this layer quantized, with its tower's mean cosine and the share of same "
    "answers; spared: KL with only this layer float; gain: share of the whole KL that it saves"
)


def print_analyses(
    report: ModelReport, console: Console, layers: Collection[LayerReport], top: int | None
) -> None:
    """Print what was analysed so far; of the sensitivity the ``top`` worst of ``layers``."""
    parts, sensitivity = report.analyses.parts, report.analyses.sensitivity
    if parts is not None:
        console.print()
        title = (
            f"one part quantized, the rest float: {parts.pairs} pairs of {source_name(parts.data)}"
        )
        console.print(space_table(parts.spaces, title))
        console.print(Text(SPACE_NOTE, style="dim"))
    if sensitivity is not None:
        names = {layer.name: layer for layer in layers}
        console.print()
        console.print(sensitivity_table(sensitivity, names, top))
        console.print(Text(SENSITIVITY_NOTE, style="dim"))


def sensitivity_table(found: Sensitivity, layers: dict[str, LayerReport], top: int | None) -> Group:
    """Layers by what quantizing each alone does to image-text probabilities, worst first."""
    title = (
        f"one layer at a time, KL in 1e-3 nats: {found.pairs} pairs of {source_name(found.data)}, "
        f"{len(found.layers)} layers; all quantized: {1e3 * found.whole.logit_kl:.3g}"
    )
    table = plain_table()
    names = ("where", "layer", "KL", "alone", "cos", "top-1", "spared", "gain")
    add_columns(table, names, left=("where", "layer", "KL"))
    mine = [entry for entry in found.layers if entry.name in layers]
    order = sorted(mine, key=lambda entry: -entry.alone.logit_kl)
    most = max((entry.alone.logit_kl for entry in order), default=0.0) or 1.0
    for entry in order[:top]:
        table.add_row(*_row(entry, layers[entry.name], most, found.whole.logit_kl))
    return titled(title, table)


def _row(entry: LayerSensitivity, layer: LayerReport, most: float, whole: float) -> list[str]:
    cosine = entry.alone.image_cosine if layer.tower == "image" else entry.alone.text_cosine
    return [
        place(layer),
        short_name(layer.name),
        filled(entry.alone.logit_kl / most, BAR),
        f"{1e3 * entry.alone.logit_kl:.3g}",
        f"{cosine:.4f}",
        f"{100 * entry.alone.top1_agreement:.0f}%",
        f"{1e3 * entry.spared.logit_kl:.3g}",
        f"{100 * (1 - entry.spared.logit_kl / whole):+.0f}%" if whole else "",
    ]
