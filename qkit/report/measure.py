# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Measure every layer's error, local and cumulative, in two passes over each small batch.

Pass 1 runs in float; beside each layer's output stands what the layer alone would make of the same
input with its points on. Pass 2 runs quantized and is compared with pass 1. Only sums outlive a
batch; its float outputs are freed layer by layer as pass 2 reaches them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkit.calibration.observe import Batch, set_mode
from qkit.graph.layers import Layer, operand_bits
from qkit.nn.layer import QuantLayer
from qkit.nn.tensor_quantizer import Mode, TensorQuantizer
from qkit.numerics import sqnr_db
from qkit.progress import Advance
from qkit.report.model import LayerReport


@dataclass(slots=True)
class LayerSums:
    """Running sums over all values of one layer's output and input."""

    signal: float = 0.0
    local_noise: float = 0.0
    noise: float = 0.0
    dot: float = 0.0
    energy: float = 0.0
    clipped: int = 0
    inputs: int = 0

    def add_local(self, output: Tensor, alone: Tensor) -> None:
        """Take in a float output and the output of the layer quantized alone."""
        self.signal += _energy(output)
        self.local_noise += _energy(alone - output)

    def add_cumulative(self, output: Tensor, quantized: Tensor) -> None:
        """Take in a float output and the one of the quantized model."""
        self.noise += _energy(quantized - output)
        self.dot += float((quantized.double() * output.double()).sum())
        self.energy += _energy(quantized)

    def add_clipping(self, x: Tensor, point: TensorQuantizer) -> None:
        """Count the values of ``x`` that lie beyond the outermost integers of ``point``."""
        scale, zero_point = point.qparams
        if scale.ndim:
            shape = [-1 if d == point.axis % x.ndim else 1 for d in range(x.ndim)]
            scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
        low = (point.spec.quant_min - zero_point - 0.5) * scale
        high = (point.spec.quant_max - zero_point + 0.5) * scale
        self.clipped += int(((x < low) | (x > high)).sum())
        self.inputs += x.numel()

    @property
    def cosine(self) -> float:
        """Cosine of float and quantized output over all values; 1 where both are zero."""
        norm = (self.signal * self.energy) ** 0.5
        return self.dot / norm if norm > 0 else 1.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """Sums by layer name, and the mean cosine of the embeddings by tower."""

    layers: Mapping[str, LayerSums]
    embedding_cosine: Mapping[str, float]


def measure(
    model: nn.Module, layers: Sequence[Layer], batches: Iterable[Batch], advance: Advance
) -> Measurement:
    """Run ``batches`` in float and quantized and add up what differs.

    Hooks only look: they return nothing, and modes are as before afterwards.

    Args:
        model: a calibrated model, in mode QUANTIZE.
        layers: its layers.
        batches: inputs; their size bounds the memory.
        advance: told the number of images and texts done.
    """
    sums = {layer.name: LayerSums() for layer in layers}
    cosines: dict[str, list[Tensor]] = {}
    try:
        with torch.no_grad():
            for batch in batches:
                for tower, cosine in _compare(model, layers, batch, sums).items():
                    cosines.setdefault(tower, []).append(cosine)
                advance(batch.size)
    finally:
        set_mode(model, Mode.QUANTIZE)
    means = {tower: float(torch.cat(values).mean()) for tower, values in cosines.items()}
    return Measurement(sums, means)


def _compare(
    model: nn.Module, layers: Sequence[Layer], batch: Batch, sums: Mapping[str, LayerSums]
) -> dict[str, Tensor]:
    """Both passes over one batch; cosines ``(N,)`` of the embeddings by tower."""
    kept: dict[str, Tensor] = {}
    set_mode(model, Mode.OFF)
    with hooked(layers, lambda *seen: _pass_float(sums, kept, *seen)):
        before = _embeddings(model, batch)
    set_mode(model, Mode.QUANTIZE)
    with hooked(layers, lambda *seen: _pass_quantized(sums, kept, *seen)):
        after = _embeddings(model, batch)
    return {
        tower: F.cosine_similarity(features.double(), after[tower].double(), dim=-1)
        for tower, features in before.items()
    }


def layer_reports(
    layers: Sequence[Layer],
    sums: Mapping[str, LayerSums],
    macs: Mapping[str, int],
    block_of: Callable[[str], int | None],
) -> tuple[LayerReport, ...]:
    """Turn sums into one ``LayerReport`` a layer."""
    return tuple(
        _layer_report(layer, sums[layer.name], macs.get(layer.name, 0), block_of(layer.name))
        for layer in layers
    )


@contextmanager
def hooked(
    layers: Sequence[Layer], see: Callable[[Layer, tuple[Any, ...], Tensor], None]
) -> Iterator[None]:
    """Call ``see(layer, inputs, output)`` after each layer's forward."""

    def hook_of(layer: Layer) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        return lambda _, inputs, output: see(layer, inputs, output)

    handles = [layer.module.register_forward_hook(hook_of(layer)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pass_float(
    sums: Mapping[str, LayerSums],
    kept: dict[str, Tensor],
    layer: Layer,
    inputs: tuple[Any, ...],
    output: Tensor,
) -> None:
    kept[layer.name] = output
    if layer.points:
        sums[layer.name].add_local(output, layer.run_alone(inputs))
    else:
        sums[layer.name].add_local(output, output)
    arriving = [point for point in layer.input_quantizers if point.point.role != "probs"]
    for point, x in zip(arriving, inputs, strict=False):
        if not point.spec.dynamic:
            sums[layer.name].add_clipping(x, point)


def _pass_quantized(
    sums: Mapping[str, LayerSums],
    kept: dict[str, Tensor],
    layer: Layer,
    _: tuple[Any, ...],
    output: Tensor,
) -> None:
    sums[layer.name].add_cumulative(kept.pop(layer.name), output)


def _embeddings(model: Any, batch: Batch) -> dict[str, Tensor]:
    features = {}
    if batch.images is not None:
        features["image"] = model.encode_image(batch.images)
    if batch.texts is not None:
        features["text"] = model.encode_text(batch.texts)
    return features


def _layer_report(layer: Layer, sums: LayerSums, macs: int, block: int | None) -> LayerReport:
    operands = operand_bits(layer)
    inputs = [bits for role, bits in operands.items() if role != "weight"]
    return LayerReport(
        name=layer.name,
        tower=layer.tower,
        kind=layer.kind,
        block=block,
        weight_bits=operands.get("weight"),
        act_bits=None if None in inputs or not inputs else min(b for b in inputs if b is not None),
        operands=operands,
        weight_sqnr_db=_weight_sqnr(layer),
        local_sqnr_db=sqnr_db(sums.signal, sums.local_noise),
        cumulative_sqnr_db=sqnr_db(sums.signal, sums.noise),
        cosine=sums.cosine,
        clipped=sums.clipped / sums.inputs if sums.inputs else None,
        weights=layer.module.weight.numel() if isinstance(layer.module, QuantLayer) else 0,
        macs=macs,
    )


def _weight_sqnr(layer: Layer) -> float | None:
    if not isinstance(layer.module, QuantLayer) or layer.weight_quantizer is None:
        return None
    weight = layer.module.weight.detach()
    return sqnr_db(_energy(weight), _energy(layer.module.quantized_weight().detach() - weight))


def _energy(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dtype=torch.float64) ** 2)
