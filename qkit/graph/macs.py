# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Multiply-accumulates by layer, beside the total that torch's own operator counter sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from qkit.graph.layers import Layer
from qkit.nn.attention import QuantSDPA


def count_macs(
    layers: Sequence[Layer], encoders: Mapping[str, Callable[[], Tensor]]
) -> tuple[dict[str, int], int]:
    """Multiply-accumulates by layer, and of everything, in one call of each encoder.

    Args:
        layers: the layers of a swapped model.
        encoders: by tower, a function that runs it on one input.
    """
    macs: dict[str, int] = {}

    def record(layer: Layer) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            macs[layer.name] = macs.get(layer.name, 0) + _layer_macs(layer, inputs, output)

        return hook

    handles = [layer.module.register_forward_hook(record(layer)) for layer in layers]
    try:
        with torch.no_grad(), _visible_products(), FlopCounterMode(display=False) as counter:
            for encode in encoders.values():
                encode()
    finally:
        for handle in handles:
            handle.remove()
    return macs, counter.get_total_flops() // 2


@contextmanager
def _visible_products() -> Iterator[None]:
    """Keep fused attention kernels off: the counter has no formula for those of a CPU."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _layer_macs(layer: Layer, inputs: tuple[Tensor, ...], output: Tensor) -> int:
    module: Any = layer.module
    if layer.kind == "embedding":
        return 0
    if isinstance(module, QuantSDPA):  # q k^T and probs v
        return 2 * output.numel() * inputs[1].shape[-2]
    return int(output.numel()) * int(module.weight[0].numel())
