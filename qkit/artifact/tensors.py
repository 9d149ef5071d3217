# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A quantized model as named tensors, integers packed, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from qkit.artifact.packing import pack
from qkit.artifact.stored import (
    check_filled,
    is_point_state,
    misfits,
    quantized_weights,
    stored_levels,
    take_stored,
)
from qkit.calibration.install import install_roundings
from qkit.graph.layers import Layer, list_points
from qkit.nn.kept import mean_offset
from qkit.nn.layer import QuantLayer
from qkit.nn.tensor_quantizer import TensorQuantizer


def to_tensors(model: nn.Module, layers: Sequence[Layer]) -> dict[str, Tensor]:
    """Everything needed to rebuild a quantized model bit for bit.

    A quantized weight ``NAME.weight`` is stored as ``NAME.weight.packed`` (uint8); every static
    point as ``POINT.scale`` and, where affine, ``POINT.zero_point``; a learned change of the
    LayerNorm before a point as ``POINT.gain`` and ``POINT.shift``; what a weight's rounding adds to
    its layer's output as ``POINT.correction``, and what the mean of a centred input adds as
    ``POINT.offset``; the coordinates of a point as ``POINT.transform.NAME``; the SHA-256 of a float
    weight whose integers are not simply the nearest to it as ``POINT.source``, to know that weight
    by; all else as it is.
    """
    weights = quantized_weights(layers)
    tensors = {
        name: value.detach().cpu()
        for name, value in model.state_dict().items()
        if name not in weights and not is_point_state(model, name)
    }
    for name, (layer, quantizer) in weights.items():
        levels = quantizer.integers(layer.weight.detach())
        unsigned = (levels - quantizer.spec.quant_min).cpu()
        tensors[f"{name}.packed"] = pack(unsigned, quantizer.spec.bits)
        tensors |= _beside(layer, quantizer)
    for point in list_points(model):
        if not point.spec.dynamic:
            tensors[f"{point.point}.scale"] = point.qparams.scale.cpu()
            if not point.spec.symmetric:
                tensors[f"{point.point}.zero_point"] = point.qparams.zero_point.cpu()
        if point.gain is not None and point.shift is not None:
            tensors[f"{point.point}.gain"] = point.gain.cpu()
            tensors[f"{point.point}.shift"] = point.shift.cpu()
        if point.transform is not None and point.point.role != "weight":
            parts = point.transform.tensors()
            tensors |= {f"{point.point}.transform.{k}": t.cpu() for k, t in parts.items()}
    return tensors


def _beside(layer: QuantLayer, quantizer: TensorQuantizer) -> dict[str, Tensor]:
    """What else is stored of a weight."""
    found: dict[str, Tensor | None] = {"correction": quantizer.correction}
    if quantizer.levels is not None or quantizer.transform is not None:
        found["source"] = _digest(layer.weight)
    if quantizer.transform is not None:
        weight = layer.weight.detach()
        found["offset"] = mean_offset(quantizer, weight, quantizer.round(weight).add(0.0))
    return {f"{quantizer.point}.{k}": t.cpu() for k, t in found.items() if t is not None}


def from_tensors(model: nn.Module, layers: Sequence[Layer], tensors: Mapping[str, Tensor]) -> None:
    """Fill a swapped model, its points attached, with stored tensors; ready to run quantized.

    Raises:
        ArtifactError: a tensor is missing, left over or of the wrong shape.
    """
    stored = take_stored(model, layers, tensors)
    with misfits():
        state = dict(stored.floats)
        for name, (layer, quantizer) in quantized_weights(layers).items():
            levels = stored_levels(stored.packed[name], layer, quantizer)
            state[name] = quantizer.dequantized(levels).add(0.0)  # no -0.0
        install_roundings(model, stored.roundings)
        missing, unexpected = model.load_state_dict(state, strict=False)
    check_filled(model, missing, unexpected)


def install_stored(
    model: nn.Module, layers: Sequence[Layer], tensors: Mapping[str, Tensor]
) -> None:
    """Give a model's points what is stored of them and leave its own, float, weights in place.

    Raises:
        ArtifactError: a scale is missing or of the wrong shape.
    """
    stored = take_stored(model, layers, tensors, levels=True)
    with misfits():
        install_roundings(model, stored.roundings)


def _digest(weight: Tensor) -> Tensor:
    """SHA-256 of a tensor's values, ``(32,)`` bytes."""
    values = weight.detach().cpu().contiguous().numpy().tobytes()
    return torch.tensor(list(hashlib.sha256(values).digest()), dtype=torch.uint8)
