# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Measure every layer's and every block's error in two passes over each small batch.

Pass 1 runs in float, pass 2 quantized and is compared with pass 1. In every few batches a layer is
also run alone: in pass 1 quantized, on its float input (local: what it makes), and in pass 2 in
float, on the input that really arrives (inherited: what it passes on). Only sums outlive a batch;
its float outputs are freed one by one as pass 2 reaches them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkit.calibration.observe import Batch, set_mode
from qkit.graph.blocks import Block
from qkit.graph.layers import Layer
from qkit.nn.tensor_quantizer import Mode, TensorQuantizer
from qkit.progress import Advance
from qkit.report.sums import ErrorSums, InputSums

Inputs = tuple[Any, ...]
See = Callable[[Any, Inputs, Tensor], None]


@dataclass(slots=True)
class LayerSums:
    """Sums of one layer: the whole model's error at its output, its own, and what it was given."""

    cumulative: ErrorSums = field(default_factory=ErrorSums)
    local: ErrorSums = field(default_factory=ErrorSums)
    inherited: ErrorSums = field(default_factory=ErrorSums)
    input: InputSums = field(default_factory=InputSums)


@dataclass(slots=True)
class Measurement:
    """Sums by layer name, sums by block name, and the embeddings' cosines by tower.

    ``order`` holds the layers' names as they ran.
    """

    layers: dict[str, LayerSums]
    blocks: dict[str, ErrorSums]
    order: dict[str, None] = field(default_factory=dict)
    cosines: dict[str, list[Tensor]] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Samples measured in the tower that saw more of them."""
        return max((sum(map(len, values)) for values in self.cosines.values()), default=0)

    @property
    def embedding_cosine(self) -> dict[str, float]:
        """Mean cosine of float and quantized embeddings by tower."""
        return {tower: float(torch.cat(values).mean()) for tower, values in self.cosines.items()}


@dataclass(slots=True)
class _Pair:
    """Two passes over one batch, and what has to be remembered between them."""

    layers: Sequence[Layer]
    blocks: Sequence[Block]
    found: Measurement
    alone: bool
    kept: dict[str, Tensor] = field(default_factory=dict)
    arrived: dict[TensorQuantizer, Tensor] = field(default_factory=dict)

    def run(self, model: nn.Module, batch: Batch) -> None:
        set_mode(model, Mode.OFF)
        with hooked(self.layers, self._float_layer), hooked(self.blocks, self._float_block):
            before = embeddings(model, batch)
        set_mode(model, Mode.QUANTIZE)
        shared = {p for layer in self.layers if layer.attention for p in layer.input_quantizers}
        with (
            hooked(self.layers, self._quantized_layer),
            hooked(self.blocks, self._quantized_block),
            hooked([_Shared(point) for point in shared], self._shared_input),
        ):
            after = embeddings(model, batch)
        for tower, features in before.items():
            cosine = F.cosine_similarity(features.double(), after[tower].double(), dim=-1)
            self.found.cosines.setdefault(tower, []).append(cosine)

    def _float_layer(self, layer: Layer, inputs: Inputs, output: Tensor) -> None:
        self.kept[layer.name] = output
        self.found.order[layer.name] = None
        sums = self.found.layers[layer.name]
        if self.alone:
            sums.local.add(output, layer.run_alone(inputs) if layer.points else output)
        if layer.kind not in ("embedding", "attention"):
            sums.input.add(layer.as_rounded(inputs[0]), layer.input_axis)
        arriving = [point for point in layer.input_quantizers if point.point.role != "probs"]
        for point, x in zip(arriving, inputs, strict=False):
            if not point.spec.dynamic:
                sums.input.add_clipping(layer.as_rounded(x), point)

    def _quantized_layer(self, layer: Layer, inputs: Inputs, output: Tensor) -> None:
        sums, before = self.found.layers[layer.name], self.kept.pop(layer.name)
        sums.cumulative.add(before, output)
        if self.alone:
            if layer.attention is not None and layer.input_quantizers:
                arrived = self.arrived[layer.input_quantizers[0]]
                inputs = (arrived[:, : inputs[0].shape[1]],)  # q may take the first tokens only
            sums.inherited.add(before, layer.run_float(inputs) if layer.points else output)

    def _shared_input(self, shared: _Shared, inputs: Inputs, _: Tensor) -> None:
        if self.alone:
            self.arrived[shared.module] = inputs[0]

    def _float_block(self, block: Block, _: Inputs, output: Any) -> None:
        self.kept[block.name] = stream(output)

    def _quantized_block(self, block: Block, _: Inputs, output: Any) -> None:
        self.found.blocks[block.name].add(self.kept.pop(block.name), stream(output))


@dataclass(frozen=True, slots=True)
class _Shared:
    """The point in front of q, k and v: what it rounds is no input of theirs any more."""

    module: TensorQuantizer


def measure(
    model: nn.Module,
    layers: Sequence[Layer],
    blocks: Sequence[Block],
    batches: Iterable[Batch],
    advance: Advance,
    every: int = 1,
) -> Measurement:
    """Run ``batches`` in float and quantized and add up what differs.

    Hooks only look: they return nothing, and modes are as before afterwards.

    Args:
        model: a calibrated model, in mode QUANTIZE.
        layers: its layers.
        blocks: its blocks.
        batches: inputs; their size bounds the memory.
        advance: told the number of images and texts done, and the embeddings' cosines so far.
        every: local and inherited errors are taken from each so many-th batch, from the first.
    """
    found = Measurement(
        {layer.name: LayerSums() for layer in layers},
        {block.name: ErrorSums() for block in blocks},
    )
    try:
        with torch.no_grad():
            for number, batch in enumerate(batches):
                _Pair(layers, blocks, found, alone=number % every == 0).run(model, batch)
                advance(batch.size, **found.embedding_cosine)
    finally:
        set_mode(model, Mode.QUANTIZE)
    return found


@contextmanager
def hooked(sites: Sequence[Any], see: See) -> Iterator[None]:
    """Call ``see(site, inputs, output)`` after the forward of each site's module."""

    def hook_of(site: Any) -> Callable[[nn.Module, Inputs, Tensor], None]:
        return lambda _, inputs, output: see(site, inputs, output)

    handles = [site.module.register_forward_hook(hook_of(site)) for site in sites]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def embeddings(model: Any, batch: Batch) -> Mapping[str, Tensor]:
    """Features ``(N, dim)`` by tower."""
    features = {}
    if batch.images is not None:
        features["image"] = model.encode_image(batch.images)
    if batch.texts is not None:
        features["text"] = model.encode_text(batch.texts)
    return features


def stream(output: Any) -> Tensor:
    """The residual stream of a block's output; some blocks return more beside it."""
    tensor: Tensor = output[0] if isinstance(output, tuple | list) else output
    return tensor
