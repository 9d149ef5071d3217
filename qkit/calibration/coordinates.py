# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Put changes of coordinates where they belong: at an input and at the weights that read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from qkit.errors import CalibrationError
from qkit.graph.layers import Layer
from qkit.nn.conv import QuantConv2d
from qkit.spec import PointId, QuantSpec
from qkit.transform import Transform

ORTHOGONAL = 1e-4  # how far from it float32 may be


def install_transforms(layers: Sequence[Layer], chosen: Mapping[PointId, Transform]) -> None:
    """Give inputs, and the weights that read them, the coordinates they are rounded in.

    Scales, observers and roundings of these points are dropped: they were made in others.

    Args:
        layers: all layers of a swapped model, their points attached.
        chosen: by the input's point.

    Raises:
        CalibrationError: there is no such input, its channels cannot be mixed, or the sizes differ.
    """
    known = {p.point for layer in layers for p in layer.input_quantizers}
    if unknown := set(chosen) - known:
        message = f"the transform of {min(unknown)} has no input to go to. Name only known inputs."
        raise CalibrationError(message)
    placed = [
        (layer, point, chosen[point.point])
        for layer in layers
        for point in layer.input_quantizers
        if point.point in chosen
    ]
    for layer, point, transform in placed:
        _check(point.point, point.spec, layer, transform)
    for layer, point, transform in placed:
        point.set_transform(transform.to(layer.raw_weight.device))
        if layer.weight_quantizer is not None:
            layer.weight_quantizer.set_transform(transform)


def can_transform(layer: Layer, spec: QuantSpec) -> bool:
    """Whether the channels of a layer's input can be mixed: it must be read as rows.

    Not where each channel has its own scale, nor where neighbouring outputs of a convolution read
    the same values, nor where the grid is made for how the values lie as they are.
    """
    if isinstance(layer.module, QuantConv2d) and not layer.module.cuts_patches:
        return False
    return spec.mixable


def _check(point: PointId, spec: QuantSpec, layer: Layer, transform: Transform) -> None:
    if not can_transform(layer, spec):
        message = (
            f"{point} has scales by channel, a grid = '{spec.grid}', or overlapping windows that "
            "read it, so its channels cannot be mixed. Leave it as it is."
        )
        raise CalibrationError(message)
    vectors = {"shift": transform.shift, "gain": transform.gain}
    for name, vector in vectors.items():
        if vector is not None and not _fits(vector, layer.reads, may_vanish=name == "shift"):
            message = (
                f"the {name} of {point} has shape {tuple(vector.shape)}; its input needs "
                f"{layer.reads} finite values, none of them a gain of 0. Return one a channel."
            )
            raise CalibrationError(message)
    for side in ("before", "after"):
        _check_factors(point, layer.reads, transform.factors(side))
    if not 0 < transform.clip <= 1:
        message = f"the clip of {point} is {transform.clip:g}. It must lie above 0, and at most 1."
        raise CalibrationError(message)


def _fits(vector: Tensor, size: int, *, may_vanish: bool) -> bool:
    if vector.shape != (size,) or not bool(torch.isfinite(vector).all()):
        return False
    return may_vanish or bool((vector != 0).all())


def _check_factors(point: PointId, size: int, factors: Sequence[Tensor]) -> None:
    shapes = [tuple(factor.shape) for factor in factors]
    square = all(len(shape) == 2 and shape[0] == shape[1] for shape in shapes)
    if factors and (not square or torch.Size(s[0] for s in shapes).numel() != size):
        message = (
            f"the factors of {point} have shapes {shapes}, its input {size} channels. "
            "They must be square, and their sizes multiply to that number."
        )
        raise CalibrationError(message)
    for factor in factors:
        off = float((factor @ factor.T - torch.eye(len(factor)).to(factor)).abs().max())
        if not off < ORTHOGONAL:
            message = (
                f"a factor of {point} is not orthogonal: rows are off by {off:.1g}. "
                "Only rotations and reflections can be undone by their transpose."
            )
            raise CalibrationError(message)
