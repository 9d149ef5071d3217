# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Seeded values, and points calibrated by plain minimum and maximum."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qkit.graph.layers import list_points
from qkit.nn.layer import QuantLayer
from qkit.nn.tensor_quantizer import Mode
from qkit.numerics import qparams_from_range
from qkit.observers import weight_stats
from qkit.spec import Range


@pytest.fixture
def fill(normal) -> Callable[[nn.Module], nn.Module]:
    """Give every parameter normal values, biases included, which torch would start at zero."""

    def fill(module: nn.Module) -> nn.Module:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(normal(*parameter.shape) / 2)
        return module.eval()

    return fill


@pytest.fixture
def calibrate() -> Callable[..., None]:
    """Observe one call, install minimum and maximum at every point, and switch to QUANTIZE."""

    def calibrate(module: nn.Module, *inputs: Tensor, **options: object) -> None:
        points = list_points(module)
        for point in points:
            point.set_mode(Mode.OBSERVE)
        module(*inputs, **options)
        weights = {
            layer.weight_quantizer: layer.weight
            for layer in module.modules()
            if isinstance(layer, QuantLayer)
        }
        for point in points:
            point.set_mode(Mode.QUANTIZE)
            point.fired = 0
            if point.spec.dynamic:
                continue
            held = weights.get(point)
            stats = point.stats() if held is None else weight_stats(held, point.spec.granularity)
            point.set_qparams(qparams_from_range(Range(stats.min_val, stats.max_val), point.spec))

    return calibrate
