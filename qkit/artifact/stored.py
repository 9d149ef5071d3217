# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The tensors of a run folder sorted by what they are for, the points filled with theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qkit.artifact.packing import unpack
from qkit.calibration.coordinates import install_transforms
from qkit.calibration.install import install
from qkit.errors import ArtifactError, CalibrationError
from qkit.graph.layers import Layer, list_points
from qkit.nn.layer import QuantLayer
from qkit.nn.tensor_quantizer import TensorQuantizer
from qkit.spec import Affine, PointId, QParams, Rounding
from qkit.transform import Transform


@dataclass(frozen=True, slots=True)
class Stored:
    """What is stored of a model beside what its points hold.

    Attributes:
        floats: parameters and buffers that stayed in float, by name.
        packed: packed integers by the name of the weight.
        roundings: what weights add to their layers' outputs, by point.
    """

    floats: Mapping[str, Tensor]
    packed: Mapping[str, Tensor]
    roundings: Mapping[PointId, Rounding]


def take_stored(
    model: nn.Module,
    layers: Sequence[Layer],
    tensors: Mapping[str, Tensor],
    *,
    levels: bool = False,
) -> Stored:
    """Install transforms and scales in a model's points; return the rest.

    Args:
        model: swapped, its points attached.
        layers: its layers.
        tensors: as ``to_tensors`` made them.
        levels: the model keeps its float weights, so roundings fix integers; see
            ``_take_roundings``.

    Raises:
        ArtifactError: a tensor is missing or of the wrong shape.
    """
    rest = dict(tensors)
    with misfits():
        install_transforms(layers, _take_transforms(model, rest))
        install(model, _take_qparams(model, rest), _take_affines(model, rest))
        roundings = _take_roundings(layers, rest, levels=levels)
        packed = {name: rest.pop(f"{name}.packed") for name in quantized_weights(layers)}
    return Stored(rest, packed, roundings)


@contextmanager
def misfits() -> Iterator[None]:
    """Say of whatever does not fit that it is the run folder's fault.

    Raises:
        ArtifactError: something did not fit.
    """
    try:
        yield
    except (CalibrationError, KeyError, RuntimeError, ValueError) as error:
        raise ArtifactError(_misfit(str(error))) from error


def check_filled(model: nn.Module, missing: Sequence[str], unexpected: Sequence[str]) -> None:
    """Refuse what ``load_state_dict`` could not place, or found nothing for.

    Raises:
        ArtifactError: there is such a tensor.
    """
    lost = [name for name in missing if not is_point_state(model, name)]
    if lost or unexpected:
        raise ArtifactError(_misfit(f"{[*lost, *unexpected][0]!r}"))


def quantized_weights(layers: Sequence[Layer]) -> dict[str, tuple[QuantLayer, TensorQuantizer]]:
    """Layers with a weight point, and that point, by the name of the weight."""
    return {
        f"{layer.name}.weight": (layer.module, layer.weight_quantizer)
        for layer in layers
        if isinstance(layer.module, QuantLayer) and layer.weight_quantizer is not None
    }


def is_point_state(model: nn.Module, name: str) -> bool:
    """Whether the state ``name`` belongs to a point, not to the model."""
    owner = name.rpartition(".")[0]
    return isinstance(model.get_submodule(owner), TensorQuantizer | Transform)


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
    for name, (layer, quantizer) in quantized_weights(layers).items():
        chosen = rest.pop(f"{quantizer.point}.source", None) is not None
        correction = rest.pop(f"{quantizer.point}.correction", None)
        offset = rest.pop(f"{quantizer.point}.offset", None)
        if not levels and offset is not None:
            correction = offset if correction is None else correction + offset
        packed = rest[f"{name}.packed"] if chosen and levels else None
        if packed is not None or correction is not None:
            fixed = None if packed is None else stored_levels(packed, layer, quantizer)
            found[quantizer.point] = Rounding(fixed, correction)
    return found


def stored_levels(packed: Tensor, layer: QuantLayer, quantizer: TensorQuantizer) -> Tensor:
    """Integers of a weight, int16, in its shape."""
    raw = unpack(packed, quantizer.spec.bits, tuple(layer.weight.shape))
    return raw.to(torch.int16) + quantizer.spec.quant_min


def _stored_qparams(point: TensorQuantizer, rest: dict[str, Tensor]) -> QParams:
    scale = rest.pop(f"{point.point}.scale")
    if point.spec.symmetric:
        return QParams(scale, torch.zeros_like(scale, dtype=torch.int32))
    return QParams(scale, rest.pop(f"{point.point}.zero_point"))


def _misfit(detail: str) -> str:
    return (
        f"the stored tensors do not fit the model they name ({detail[:200]}). "
        "Calibrate again with this version."
    )
