# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A report as tables in the terminal. No arithmetic beyond adding up what a line sums up."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qkit.report.model import LayerReport, Metric, ModelReport

BLOCK = re.compile(r"^.*?\.(?:resblocks|blocks|layers|layer)\.\d+\.")
FIGURES = {
    "classification": ("top1", "top5"),
    "retrieval": (
        "image_to_text.r1",
        "image_to_text.r5",
        "image_to_text.r10",
        "text_to_image.r1",
        "text_to_image.r5",
        "text_to_image.r10",
    ),
}


def print_report(report: ModelReport, console: Console, top: int | None) -> None:
    """Print summary, coverage, towers and the ``top`` worst layers (all for None)."""
    console.print(Text(f"{report.label}  {report.model}", style="bold"))
    console.print(Text(_size_line(report.size)))
    console.print(Text(_coverage_line(report)))
    console.print(_left_float_table(report))
    console.print()
    if report.metrics:
        print_metrics(report.metrics, console)
        console.print()
    console.print(_tower_table(report))
    console.print()
    console.print(layer_table(worst_first(report.layers)[:top], len(report.layers)))


def print_metrics(metrics: Sequence[Metric], console: Console) -> None:
    """Print before and after, one table for all evaluations."""
    table = Table(box=None, pad_edge=False, title="accuracy, %", title_justify="left")
    table.add_column("data", overflow="fold")
    for name in ("figure", "float", "quantized", "change", "same answer"):
        table.add_column(name, justify="left" if name == "figure" else "right", no_wrap=True)
    for metric in metrics:
        for i, figure in enumerate(FIGURES[metric.task]):
            table.add_row(*_metric_row(metric, figure, first=i == 0))
    console.print(table)


def layer_table(layers: Sequence[LayerReport], of: int) -> Table:
    """Layers with their errors; 80 columns are enough."""
    title = f"layers, worst first: {len(layers)} of {of} (SQNR in dB, higher is better)"
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    table.add_column("tower", no_wrap=True)
    table.add_column("blk", justify="right", no_wrap=True)
    table.add_column("layer", overflow="fold")
    table.add_column("kind", no_wrap=True)
    for name in ("W", "A", "weight", "local", "arrives", "cos", "clip %"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in layers:
        table.add_row(
            layer.tower,
            "" if layer.block is None else str(layer.block),
            BLOCK.sub("", layer.name),
            layer.kind,
            _bits(layer.weight_bits, layer.weights > 0),
            _bits(layer.act_bits, layer.kind != "embedding"),
            _db(layer.weight_sqnr_db),
            _db(layer.local_sqnr_db),
            _db(layer.cumulative_sqnr_db),
            f"{layer.cosine:.3f}",
            "" if layer.clipped is None else f"{100 * layer.clipped:.2f}",
        )
    return table


def worst_first(layers: Sequence[LayerReport]) -> list[LayerReport]:
    """Layers by their own fault, the least local SQNR first."""
    return sorted(layers, key=lambda layer: (layer.local_sqnr_db, layer.name))


def read_figure(figures: Mapping[str, Any], path: str) -> float:
    """Return a figure by its dotted name, such as "image_to_text.r1"."""
    value: Any = figures
    for key in path.split("."):
        value = value[key]
    return float(value)


def _tower_table(report: ModelReport) -> Table:
    table = Table(box=None, pad_edge=False, title="towers (local SQNR)", title_justify="left")
    table.add_column("tower")
    for name in ("layers", "embedding cosine", "median dB", "worst dB", "worst layer"):
        table.add_column(name, justify="left" if name == "worst layer" else "right")
    for tower, cosine in report.embedding_cosine.items():
        mine = worst_first([layer for layer in report.layers if layer.tower == tower])
        table.add_row(
            tower,
            str(len(mine)),
            f"{cosine:.4f}",
            _db(mine[len(mine) // 2].local_sqnr_db),
            _db(mine[0].local_sqnr_db),
            _short(mine[0]),
        )
    return table


def _metric_row(metric: Metric, figure: str, first: bool) -> tuple[str, ...]:
    after = read_figure(metric.quantized, figure)
    kind, _, path = metric.data.partition(":")
    shown = f"{kind}:{PurePath(path).name}, {metric.samples} images" if first else ""
    skipped = f", {metric.skipped} skipped" if first and metric.skipped else ""
    name = figure.replace("_", " ").replace(".r", " R@")
    if metric.float is None:
        return shown + skipped, name, "", f"{100 * after:.1f}", "", ""
    before = read_figure(metric.float, figure)
    agreement = f"{100 * metric.agreement:.1f}" if first and metric.agreement is not None else ""
    return (
        shown + skipped,
        name,
        f"{100 * before:.1f}",
        f"{100 * after:.1f}",
        f"{100 * (after - before):+.1f}",
        agreement,
    )


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
    """What stays in float and why, the largest first; the six largest are enough."""
    table = Table(box=None, pad_edge=False, header_style="dim", style="dim")
    table.add_column("left in float", overflow="fold")
    table.add_column("weights", justify="right", no_wrap=True)
    table.add_column("MACs", justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    coverage = report.coverage
    for item in sorted(coverage.left_float, key=lambda i: (-i.macs, -i.weights))[:6]:
        macs = f"{item.macs / coverage.total_macs:.2%}" if item.macs else ""
        table.add_row(item.what, f"{item.weights / coverage.total_weights:.2%}", macs, item.why)
    return table


def _short(layer: LayerReport) -> str:
    block = "" if layer.block is None else f"block {layer.block} "
    return block + BLOCK.sub("", layer.name)


def _bits(bits: int | None, has_one: bool) -> str:
    return "" if not has_one else "float" if bits is None else str(bits)


def _db(value: float | None) -> str:
    if value is None:
        return ""
    return "exact" if value == float("inf") else f"{value:.1f}"
