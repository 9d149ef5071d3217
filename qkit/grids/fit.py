# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Which grid of a kind: the upper end is given, the least squared error decides the rest."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qkit.grids.codebook import codebook
from qkit.grids.shapes import SHAPES
from qkit.observers import spread
from qkit.spec import Histogram, QParams, QuantSpec

SUBSAMPLES = 4  # values that stand for a bin of a histogram


class Sample(NamedTuple):
    """Values ``(n,)`` and how much each counts, ``(n,)``, the sum of which is 1."""

    values: Tensor
    weights: Tensor


def sample_of(histogram: Histogram) -> Sample:
    """Values that stand for the histogram of a whole tensor."""
    values, weights = spread(histogram, SUBSAMPLES)
    return Sample(values.flatten(), weights.flatten())


def fit(high: Tensor, spec: QuantSpec, sample: Sample) -> tuple[QParams, Tensor]:
    """The grid whose largest value is ``high`` with the least squared error, and that error.

    Args:
        high: ``()``; a grid is chosen by its upper end, of which the scale follows.
        spec: of a grid that is not uniform.
        sample: what the error is taken over.
    """
    best: tuple[QParams, Tensor] | None = None
    for parameter in SHAPES[spec.grid].parameters:
        q = qparams_up_to(high, spec, parameter)
        off = codebook(q, spec).round(sample.values) - sample.values
        error = (off.square() * sample.weights).sum()
        if best is None or bool(error < best[1]):
            best = q, error
    assert best is not None  # every shape has a parameter
    return best


def qparams_up_to(high: Tensor, spec: QuantSpec, parameter: int) -> QParams:
    """Scale ``()`` of the grid whose largest value is ``high``; never 0."""
    shape = SHAPES[spec.grid]
    top = shape.units(spec.bits, parameter)[-1].item()
    scale = ((high.double() + shape.offset) / top).clamp(min=torch.finfo(torch.float32).tiny)
    integer = torch.tensor(parameter, dtype=torch.int32, device=high.device)
    return QParams(scale.to(torch.float32), integer)
