# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A quantized model as named tensors, integers packed, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from qkit.artifact.packing import pack, unpack
from qkit.calibration.coordinates import install_transforms
from qkit.calibration.install import install, install_roundings
from qkit.errors import ArtifactError, CalibrationError
from qkit.graph.layers import Layer, list_points
from qkit.nn.layer import QuantLayer, mean_offset
from qkit.nn.tensor_quantizer import TensorQuantizer
from qkit.spec import Affine, PointId, QParams, Rounding
from qkit.transform import Transform


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
    weights = _quantized_weights(layers)
    tensors = {
        name: value.detach().cpu()
        for name, value in model.state_dict().items()
        if name not in weights and not _is_point_state(model, name)
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
    rest = dict(tensors)
    try:
        install_transforms(layers, _take_transforms(model, rest))
        install(model, _take_qparams(model, rest), _take_affines(model, rest))
        state = dict(rest)
        corrections = _take_roundings(layers, state, levels=False)
        for name, (layer, quantizer) in _quantized_weights(layers).items():
            levels = _stored_levels(state.pop(f"{name}.packed"), layer, quantizer)
            state[name] = quantizer.dequantized(levels).add(0.0)  # no -0.0
        install_roundings(model, corrections)
        missing, unexpected = model.load_state_dict(state, strict=False)
    except (CalibrationError, KeyError, RuntimeError, ValueError) as error:
        raise ArtifactError(_misfit(str(error))) from error
    lost = [name for name in missing if not _is_point_state(model, name)]
    if lost or unexpected:
        raise ArtifactError(_misfit(f"{(lost + unexpected)[0]!r}"))


def install_stored(
    model: nn.Module, layers: Sequence[Layer], tensors: Mapping[str, Tensor]
) -> None:
    """Give a model's points what is stored of them and leave its own, float, weights in place.

    Raises:
        ArtifactError: a scale is missing or of the wrong shape.
    """
    try:
        rest = dict(tensors)
        install_transforms(layers, _take_transforms(model, rest))
        install(model, _take_qparams(model, rest), _take_affines(model, rest))
        install_roundings(model, _take_roundings(layers, rest, levels=True))
    except (CalibrationError, KeyError, ValueError) as error:
        raise ArtifactError(_misfit(str(error))) from error


def _take_qparams(model: nn.Module, rest: dict[str, Tensor]) -> dict[PointId, QParams]:
    """Take the scales of all static points out of ``rest``."""
    static = [point for point in list_points(model) if not point.spec.dynamic]
    return {point.point: _stored_qparams(point, rest) for point in static}


def _take_affines(model: nn.Module, rest: dict[str, Tensor]) -> dict[PointId, Affine]:
    """Take the gains and shifts of all points that have them out of ``rest``."""
    with_one = [p.point for p in list_points(model) if f"{p.point}.gain" in rest]
    return {key: Affine(rest.pop(f"{key}.gain"), rest.pop(f"{key}.shift")) for key in with_one}


def _take_transforms(model: nn.Module, rest: dict[str, Tensor]) -> dict[PointId, Transform]:
    """Take the coordinates of all points that have some out of ``rest``."""
    found: dict[PointId, Transform] = {}
    for point in list_points(model):
        start = f"{point.point}.transform."
        names = [name for name in rest if name.startswith(start)]
        if names:
            parts = {name.removeprefix(start): rest.pop(name) for name in names}
            found[point.point] = Transform.from_tensors(parts)
    return found


def _take_roundings(
    layers: Sequence[Layer], rest: dict[str, Tensor], *, levels: bool
) -> dict[PointId, Rounding]:
    """Take corrections out of ``rest``, and, for a float weight, read its stored integers.

    Without its float weight a layer cannot know what the mean of its input lacks: that is then part
    of the correction.
    """
    found: dict[PointId, Rounding] = {}
    for name, (layer, quantizer) in _quantized_weights(layers).items():
        chosen = rest.pop(f"{quantizer.point}.source", None) is not None
        correction = rest.pop(f"{quantizer.point}.correction", None)
        offset = rest.pop(f"{quantizer.point}.offset", None)
        if not levels and offset is not None:
            correction = offset if correction is None else correction + offset
        packed = rest[f"{name}.packed"] if chosen and levels else None
        if packed is not None or correction is not None:
            fixed = None if packed is None else _stored_levels(packed, layer, quantizer)
            found[quantizer.point] = Rounding(fixed, correction)
    return found


def _stored_levels(packed: Tensor, layer: QuantLayer, quantizer: TensorQuantizer) -> Tensor:
    raw = unpack(packed, quantizer.spec.bits, tuple(layer.weight.shape))
    return raw.to(torch.int16) + quantizer.spec.quant_min


def _digest(weight: Tensor) -> Tensor:
    """SHA-256 of a tensor's values, ``(32,)`` bytes."""
    values = weight.detach().cpu().contiguous().numpy().tobytes()
    return torch.tensor(list(hashlib.sha256(values).digest()), dtype=torch.uint8)


def _stored_qparams(point: TensorQuantizer, rest: dict[str, Tensor]) -> QParams:
    scale = rest.pop(f"{point.point}.scale")
    if point.spec.symmetric:
        return QParams(scale, torch.zeros_like(scale, dtype=torch.int32))
    return QParams(scale, rest.pop(f"{point.point}.zero_point"))


def _quantized_weights(layers: Sequence[Layer]) -> dict[str, tuple[QuantLayer, TensorQuantizer]]:
    return {
        f"{layer.name}.weight": (layer.module, layer.weight_quantizer)
        for layer in layers
        if isinstance(layer.module, QuantLayer) and layer.weight_quantizer is not None
    }


def _is_point_state(model: nn.Module, name: str) -> bool:
    owner = name.rpartition(".")[0]
    return isinstance(model.get_submodule(owner), TensorQuantizer | Transform)


def _misfit(detail: str) -> str:
    return (
        f"the stored tensors do not fit the model they name ({detail[:200]}). "
        "Calibrate again with this version."
    )
