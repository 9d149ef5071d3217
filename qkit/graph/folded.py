# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Products in the coordinates in which their operands are rounded, without the way back.

A simulated layer brings its rounded input back to its own coordinates and multiplies a weight that
was brought back, too. The product of both as they were rounded is the same number, and what the
input's mean contributes joins the bias as it does in integers: it saves each input's way back, and
in training the gradient's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from qkit.graph.layers import Layer, list_layers
from qkit.nn.tensor_quantizer import TensorQuantizer


@contextmanager
def folded(model: nn.Module) -> Iterator[None]:
    """While entered, linear layers compute so wherever all that read an input can.

    Results are those of before but for the order of float sums.
    """
    points = _foldable(model)
    _fold(points, True)
    try:
        yield
    finally:
        _fold(points, False)


def _fold(points: list[TensorQuantizer], folded: bool) -> None:
    for point in points:
        point.folded = folded
        point.version += 1  # a weight that was rounded otherwise is stale


def _foldable(model: nn.Module) -> list[TensorQuantizer]:
    """Input points with coordinates of their own, and the weight points that meet them there."""
    everywhere = {"any": tuple(name for name, _ in model.named_children())}
    readers: dict[TensorQuantizer, list[Layer]] = {}
    for layer in list_layers(model, everywhere):
        for point in layer.input_quantizers if layer.transform is not None else ():
            readers.setdefault(point, []).append(layer)
    found: list[TensorQuantizer] = []
    for point, layers in readers.items():
        weights = [layer.weight_quantizer for layer in layers if layer.kind != "conv"]
        meeting = [one for one in weights if one is not None and one.transform is not None]
        if len(meeting) == len(layers):
            found += [point, *meeting]
    return found
