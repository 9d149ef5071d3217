# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Layers as the tree of towers and blocks that they form."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from rich.tree import Tree

from qkit.report.layer import BlockReport, LayerReport
from qkit.report.model import ModelReport
from qkit.report.names import short_name
from qkit.report.terminal.cells import bar, db
from qkit.report.terminal.layers import bits

BAR = 8


def layer_tree(report: ModelReport, layers: Sequence[LayerReport]) -> Tree:
    """The ``layers`` of a report in module order, below their blocks and towers."""
    shown = {layer.name for layer in layers}
    tree = Tree(Text(f"{report.label}  {report.model}  (SQNR in dB: alone, arrives)"))
    for tower in dict.fromkeys(layer.tower for layer in report.layers):
        mine = [x for x in report.layers if x.tower == tower and x.name in shown]
        if mine:
            cosine = report.embedding_cosine.get(tower)
            text = f"{tower} tower" + ("" if cosine is None else f", embedding cosine {cosine:.4f}")
            _add_layers(tree.add(text), mine, [b for b in report.blocks if b.tower == tower])
    return tree


def _add_layers(branch: Tree, layers: Sequence[LayerReport], blocks: Sequence[BlockReport]) -> None:
    branches = {}
    for layer in layers:
        if layer.block is None:
            branch.add(_leaf(layer))
            continue
        if layer.block not in branches:
            branches[layer.block] = branch.add(_block_text(layer.block, blocks))
        branches[layer.block].add(_leaf(layer))


def _block_text(index: int, blocks: Sequence[BlockReport]) -> Text:
    block = next((b for b in blocks if b.index == index), None)
    if block is None:
        return Text(f"block {index}")
    figures = f"{db(block.local_sqnr_db):>6} {db(block.cumulative_sqnr_db):>6}"
    return Text(f"block {index:<14}").append_text(_wide_bar(block.local_sqnr_db)).append(figures)


def _leaf(layer: LayerReport) -> Text:
    weight = bits(layer.weight_bits, layer.weights > 0)
    act = bits(layer.act_bits, layer.kind != "embedding")
    text = Text(f"{short_name(layer.name):<15} ").append_text(_wide_bar(layer.local_sqnr_db))
    figures = f"{db(layer.local_sqnr_db):>6} {db(layer.cumulative_sqnr_db):>6}"
    return text.append(f"{figures}  {'W' + weight if weight else '':<3}{'A' + act if act else ''}")


def _wide_bar(sqnr: float) -> Text:
    drawn = bar(sqnr, BAR)
    drawn.align("left", BAR)
    return drawn
