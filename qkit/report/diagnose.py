# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Look closer at every layer and block on a few samples: what its error looks like, what helps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from qkit.calibration.observe import Batch, set_mode
from qkit.graph.blocks import Block
from qkit.graph.layers import Layer, list_points
from qkit.nn.tensor_quantizer import Mode
from qkit.numerics import sqnr_db
from qkit.report.layer import HistogramReport
from qkit.report.measure import Inputs, Measurement, embeddings, hooked, stream
from qkit.report.ranges import histogram
from qkit.report.sums import ErrorSums
from qkit.report.trials import Noise, try_attention, try_weighted
from qkit.spec import Range

ROWS = 256


@dataclass(frozen=True, slots=True)
class LayerDiagnosis:
    """What a closer look found.

    Attributes:
        trials: dB that each change gains.
        errors: the local error in units of the float output's root mean square; None if none.
        token_spread: the input's whole range over the median token's; None without one.
    """

    trials: Mapping[str, float]
    errors: HistogramReport | None
    token_spread: float | None


@dataclass(slots=True)
class Diagnosis:
    """By layer name, and by block name the error that the block makes of float input."""

    layers: dict[str, LayerDiagnosis] = field(default_factory=dict)
    blocks: dict[str, ErrorSums] = field(default_factory=dict)


def diagnose(
    model: nn.Module,
    layers: Sequence[Layer],
    blocks: Sequence[Block],
    batch: Batch,
    measured: Measurement,
) -> Diagnosis:
    """Run one batch in float and try every layer's changes beside it.

    Args:
        model: a calibrated model, in mode QUANTIZE; it is so again afterwards.
        layers: its layers.
        blocks: its blocks.
        batch: a few samples; their activations bound the memory.
        measured: gives the ends of every input's channels.
    """
    found = Diagnosis({}, {block.name: ErrorSums() for block in blocks})

    def see_layer(layer: Layer, inputs: Inputs, output: Tensor) -> None:
        running_alone = any(point.mode is Mode.QUANTIZE for point in layer.points)
        if layer.points and not running_alone:
            found.layers[layer.name] = _layer(layer, inputs, output, measured)

    set_mode(model, Mode.OFF)
    try:
        with torch.no_grad(), hooked(layers, see_layer), ExitStack() as hooks:
            for block in blocks:
                hooks.enter_context(_running_alone(block, found.blocks[block.name]))
            embeddings(model, batch)
    finally:
        set_mode(model, Mode.QUANTIZE)
    return found


def _layer(layer: Layer, inputs: Inputs, output: Tensor, measured: Measurement) -> LayerDiagnosis:
    reach = measured.layers[layer.name].input.reach
    if layer.kind == "attention":
        noise = try_attention(layer, inputs, output)
    else:
        inputs, output = _some_rows(layer, inputs, output)
        noise = try_weighted(layer, inputs[0], output, reach)
    spread = None
    if layer.input_quantizers and reach is not None and layer.kind != "conv":
        spread = _token_spread(inputs[0], reach)
    return LayerDiagnosis(_gains(noise), _errors(layer.run_alone(inputs) - output, output), spread)


def _some_rows(layer: Layer, inputs: Inputs, output: Tensor) -> tuple[Inputs, Tensor]:
    """At most ``ROWS`` evenly spaced tokens of all samples: each is multiplied by itself."""
    rows = output.shape[:-1].numel()
    if layer.kind == "conv" or rows <= ROWS:
        return inputs, output
    every = -(-rows // ROWS)
    x = inputs[0].flatten() if layer.kind == "embedding" else inputs[0].flatten(0, -2)
    return (x[::every],), output.flatten(0, -2)[::every]


def _gains(noise: Noise) -> dict[str, float]:
    """Gains against the noise as it is, dB; a change that leaves no noise at all says nothing."""
    now = noise["now"]
    return {
        name: sqnr_db(now, value)
        for name, value in noise.items()
        if name != "now" and value and now
    }


def _errors(off: Tensor, output: Tensor) -> HistogramReport | None:
    rms = output.float().square().mean().sqrt()
    if not bool(off.any()) or not bool(rms > 0):
        return None
    relative = off / rms
    return histogram(relative, float(relative.min()), float(relative.max()))


def _token_spread(x: Tensor, reach: Range) -> float:
    median = (x.amax(dim=-1) - x.amin(dim=-1)).median()
    return float((reach.max.max() - reach.min.min()) / median.clamp(min=1e-12))


@contextmanager
def _running_alone(block: Block, sums: ErrorSums) -> Iterator[None]:
    """While entered: after the block's float forward, run it quantized on the same input."""

    def see(module: nn.Module, args: Inputs, kwargs: dict[str, Any], output: Any) -> None:
        fired = [(point, point.fired) for point in list_points(module)]
        set_mode(module, Mode.QUANTIZE)
        try:
            alone = module.forward(*args, **kwargs)
        finally:
            set_mode(module, Mode.OFF)
            for point, calls in fired:
                point.fired = calls
        sums.add(stream(output), stream(alone))

    handle = block.module.register_forward_hook(see, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
