# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Put the scales that a calibrator chose where they belong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from qkit.errors import CalibrationError, choices
from qkit.graph.layers import list_points
from qkit.grids.shapes import SHAPES
from qkit.nn.attention import ExplicitAttention
from qkit.nn.layer import QuantLayer
from qkit.nn.tensor_quantizer import Mode, TensorQuantizer
from qkit.spec import Affine, Granularity, PointId, QParams, RoundedWeight, Rounding


def install(
    model: nn.Module,
    chosen: Mapping[PointId, QParams],
    affines: Mapping[PointId, Affine] | None = None,
) -> None:
    """Install scales, drop the observers and switch every point to QUANTIZE.

    Args:
        model: swapped, its points attached.
        chosen: a scale for every static point.
        affines: gain and shift of inputs where they were learned.

    Raises:
        CalibrationError: a point is missing or too many, or a scale has the wrong shape or is not
            finite and positive, or an affine does not fit.
    """
    affines = affines or {}
    points = {point.point: point for point in list_points(model)}
    static = {key for key, point in points.items() if not point.spec.dynamic}
    _check_complete(static, set(chosen))
    channels = _channels(model)
    for key, q in chosen.items():
        _check_shape(points[key], q, channels.get(key))
        _check_scale(key, q)
        _check_parameter(points[key], q)
    for key, affine in affines.items():
        _check_affine(key, affine, channels.get(key))
    device = next(model.parameters()).device
    for key, q in chosen.items():
        points[key].set_qparams(QParams(q.scale.to(device), q.zero_point.to(device)))
    for key, point in points.items():
        learned = affines.get(key)
        point.set_affine(None if learned is None else Affine(*(t.to(device) for t in learned)))
        point.observer = None
        point.set_mode(Mode.QUANTIZE)


def install_rounded(model: nn.Module, found: Mapping[PointId, RoundedWeight]) -> None:
    """Install weights as they were rounded anew; all else stays as it is installed.

    Raises:
        CalibrationError: see ``install`` and ``install_roundings``.
    """
    points = list_points(model)
    scales = {p.point: p.qparams for p in points if not p.spec.dynamic}
    affines = {
        p.point: Affine(p.gain, p.shift)
        for p in points
        if p.gain is not None and p.shift is not None
    }
    kept = {
        p.point: Rounding(p.levels, p.correction)
        for p in points
        if p.levels is not None or p.correction is not None
    }
    install(model, scales | {key: weight.qparams for key, weight in found.items()}, affines)
    install_roundings(model, kept | {key: weight.rounding for key, weight in found.items()})


def install_roundings(model: nn.Module, roundings: Mapping[PointId, Rounding]) -> None:
    """Fix the integers of weights whose scales are installed.

    Args:
        model: swapped, its points attached.
        roundings: by the weight's point.

    Raises:
        CalibrationError: there is no such weight, or the integers or the correction do not fit it.
    """
    layers = {
        module.weight_quantizer.point: module
        for module in model.modules()
        if isinstance(module, QuantLayer) and module.weight_quantizer is not None
    }
    for key, rounding in roundings.items():
        if key not in layers:
            message = f"the rounding of {key} has no weight to go to. Round only known weights."
            raise CalibrationError(message)
        _check_rounding(key, layers[key], rounding)
    for key, (levels, correction) in roundings.items():
        layer = layers[key]
        fixed = None if levels is None else levels.to(layer.weight.device, torch.int16)
        added = None if correction is None else correction.to(layer.weight.device)
        cast(TensorQuantizer, layer.weight_quantizer).set_rounding(Rounding(fixed, added))


def _check_rounding(key: PointId, layer: QuantLayer, rounding: Rounding) -> None:
    if rounding.levels is not None:
        _check_levels(key, layer, rounding.levels)
    added, out = rounding.correction, layer.weight.shape[0]
    if added is not None and (added.shape != (out,) or not bool(torch.isfinite(added).all())):
        message = (
            f"the correction of {key} has shape {tuple(added.shape)}, which needs {out} finite "
            "values. Return one for every output channel."
        )
        raise CalibrationError(message)


def _check_levels(key: PointId, layer: QuantLayer, levels: Tensor) -> None:
    spec = cast(TensorQuantizer, layer.weight_quantizer).spec
    low, high = (int(end) for end in torch.aminmax(levels))
    if levels.shape != layer.weight.shape or low < spec.quant_min or high > spec.quant_max:
        message = (
            f"the integers of {key} have shape {tuple(levels.shape)} and reach from {low} to "
            f"{high}, its weight has {tuple(layer.weight.shape)} and {spec.quant_min} to "
            f"{spec.quant_max}. Round to its own grid."
        )
        raise CalibrationError(message)


def _check_complete(needed: set[PointId], chosen: set[PointId]) -> None:
    both = (("no scale for", needed - chosen), ("a scale too many,", chosen - needed))
    for what, keys in both:
        if keys:
            message = (
                f"the calibrator returned {what} {min(keys)} ({len(keys)} such). "
                "It must return exactly the session's points."
            )
            raise CalibrationError(message)


def _channels(model: nn.Module) -> dict[PointId, int]:
    """Channels of every tensor that a point sees."""
    found: dict[PointId, int] = {}

    def note(point: TensorQuantizer | None, channels: int) -> None:
        if point is not None:
            found[point.point] = channels

    for module in model.modules():
        if isinstance(module, QuantLayer):
            note(module.weight_quantizer, module.weight.shape[0])
            groups = int(getattr(module, "groups", 1))
            note(module.input_quantizer, module.weight.shape[1] * groups)
        elif isinstance(module, ExplicitAttention):
            note(module.input_quantizer, module.q_proj.in_features)
            note(module.context_quantizer, module.k_proj.in_features)
    return found


def _check_shape(point: TensorQuantizer, q: QParams, channels: int | None) -> None:
    per_channel = point.spec.granularity is Granularity.CHANNEL
    needed = (channels,) if per_channel else ()
    for what, tensor in zip(("scale", "zero point"), q, strict=True):
        if tuple(tensor.shape) != needed:
            message = (
                f"the calibrator returned a {what} of shape {tuple(tensor.shape)} for "
                f"{point.point}, which needs {needed}. Return the shape of its statistics."
            )
            raise CalibrationError(message)


def _check_affine(point: PointId, affine: Affine, channels: int | None) -> None:
    for what, tensor in zip(affine._fields, affine, strict=True):
        if tuple(tensor.shape) != (channels,) or not bool(torch.isfinite(tensor).all()):
            message = (
                f"the calibrator returned a {what} of shape {tuple(tensor.shape)} for {point}, "
                f"which needs {channels} finite values. Return one for every channel of its input."
            )
            raise CalibrationError(message)


def _check_parameter(point: TensorQuantizer, q: QParams) -> None:
    """Refuse the integer of a grid that is not uniform where no such grid exists."""
    shape = SHAPES.get(point.spec.grid)
    if shape is None or int(q.zero_point) in shape.parameters:
        return
    known = choices(map(str, shape.parameters))
    message = (
        f"the calibrator returned zero point {int(q.zero_point)} for {point.point}, whose grid = "
        f"'{point.spec.grid}' needs one of: {known}. Return what qkit.grids.fit chooses."
    )
    raise CalibrationError(message)


def _check_scale(point: PointId, q: QParams) -> None:
    unusable = q.scale[~(torch.isfinite(q.scale) & (q.scale > 0))]
    if unusable.numel():
        message = (
            f"the calibrator returned scale {float(unusable[0]):g} for {point}. "
            "Scales must be finite and positive; check its options."
        )
        raise CalibrationError(message)
