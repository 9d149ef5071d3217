# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Put together what observers, calibrator, measurement and diagnosis know of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qkit.graph.blocks import Block, block_of
from qkit.graph.layers import Layer, operand_bits
from qkit.nn.layer import QuantLayer
from qkit.numerics import sqnr_db
from qkit.report.diagnose import Diagnosis
from qkit.report.explain import explain
from qkit.report.layer import BlockReport, Channel, LayerReport
from qkit.report.measure import LayerSums, Measurement
from qkit.report.ranges import tensor_reports
from qkit.report.sums import energy
from qkit.spec import PointId, Range, TensorStats


@dataclass(frozen=True, slots=True)
class Known:
    """Everything known of a calibrated model's layers.

    Attributes:
        seen: what calibration saw at each point.
        macs: multiply-accumulates by layer.
        measured: sums of errors.
        diagnosis: a closer look at a few samples.
    """

    seen: Mapping[PointId, TensorStats]
    macs: Mapping[str, int]
    measured: Measurement
    diagnosis: Diagnosis


def build_reports(
    layers: Sequence[Layer], blocks: Sequence[Block], known: Known
) -> tuple[tuple[LayerReport, ...], tuple[BlockReport, ...]]:
    """One report a layer, in running order and with its cause in words, and one a block."""
    of_blocks = tuple(_block_report(block, known) for block in blocks)
    order = {name: index for index, name in enumerate(known.measured.order)}
    running = sorted(layers, key=lambda layer: order.get(layer.name, len(order)))
    of_layers = [_layer_report(layer, block_of(layer.name, blocks), known) for layer in running]
    return explain(of_layers, of_blocks), of_blocks


def _block_report(block: Block, known: Known) -> BlockReport:
    total = known.measured.blocks[block.name]
    return BlockReport(
        name=block.name,
        tower=block.tower,
        index=block.index,
        local_sqnr_db=known.diagnosis.blocks[block.name].sqnr_db,
        cumulative_sqnr_db=total.sqnr_db,
        cosine=total.cosine,
    )


def _layer_report(layer: Layer, block: int | None, known: Known) -> LayerReport:
    operands, sums = operand_bits(layer), known.measured.layers[layer.name]
    inputs = [bits for role, bits in operands.items() if role != "weight"]
    closer = known.diagnosis.layers.get(layer.name)
    return LayerReport(
        name=layer.name,
        tower=layer.tower,
        kind=layer.kind,
        block=block,
        weight_bits=operands.get("weight"),
        act_bits=None if None in inputs or not inputs else min(b for b in inputs if b is not None),
        operands=operands,
        weight_sqnr_db=_weight_sqnr(layer),
        local_sqnr_db=sums.local.sqnr_db,
        inherited_sqnr_db=sums.inherited.sqnr_db,
        cumulative_sqnr_db=sums.cumulative.sqnr_db,
        made=_made(sums),
        cosine=sums.cumulative.cosine,
        clipped=sums.input.share_clipped,
        weights=layer.module.weight.numel() if isinstance(layer.module, QuantLayer) else 0,
        macs=known.macs.get(layer.name, 0),
        tensors=tensor_reports(layer, known.seen),
        channel=_widest_channel(sums.input.reach) if layer.input_quantizers else None,
        token_spread=None if closer is None else closer.token_spread,
        errors=None if closer is None else closer.errors,
        trials={} if closer is None else closer.trials,
    )


def _made(sums: LayerSums) -> float:
    total = sums.local.noise + sums.inherited.noise
    return sums.local.noise / total if total else 0.0


def _widest_channel(reach: Range | None) -> Channel | None:
    """The channel without which the range of all would shrink most."""
    if reach is None or len(reach.min) < 2:
        return None
    low, high = reach.min.clamp(max=0), reach.max.clamp(min=0)
    lows, highs = low.sort().values, high.sort(descending=True).values
    rest_low = low.new_full((len(low),), float(lows[0])).where(low > lows[0], lows[1])
    rest_high = high.new_full((len(high),), float(highs[0])).where(high < highs[0], highs[1])
    whole = float(highs[0] - lows[0])
    if whole <= 0:
        return None
    index = int((rest_high - rest_low).argmin())
    return Channel(index, 1 - float(rest_high[index] - rest_low[index]) / whole)


def _weight_sqnr(layer: Layer) -> float | None:
    if not isinstance(layer.module, QuantLayer) or layer.weight_quantizer is None:
        return None
    weight = layer.module.weight.detach()
    return sqnr_db(energy(weight), energy(layer.module.quantized_weight().detach() - weight))
