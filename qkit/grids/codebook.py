# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Rounding to the nearest of a few values.

The papers round the logarithm instead; the nearest value is never further off and as easily found:
between two powers of two, 1.5 times the lower decides, which is a single bit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qkit.grids.normal import ScaledCodebook, scaled_codebook, step_of
from qkit.grids.shapes import SHAPES
from qkit.numerics import Grid, along, make_grid
from qkit.spec import GridKind, QParams, QuantSpec


class Codebook(NamedTuple):
    """The values of a grid that is not uniform, and the borders between them, both ascending.

    values: ``(codes,)``, float32; edges: ``(codes - 1,)``, halfway between neighbours.
    """

    values: Tensor
    edges: Tensor

    def codes(self, x: Tensor) -> Tensor:
        """Index of the value nearest to each of ``x``; of two equally near, the lower."""
        return torch.bucketize(x.to(self.edges.dtype), self.edges)

    def round(self, x: Tensor) -> Tensor:
        """``x`` at the nearest values; the gradient passes straight through between the ends."""
        result: Tensor = _RoundToCodebook.apply(x, self)  # type: ignore[no-untyped-call]
        return result


class _RoundToCodebook(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, book: Codebook) -> Tensor:
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            ctx.save_for_backward((x >= book.values[0]) & (x <= book.values[-1]))
        return book.values[book.codes(x)].to(x.dtype)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad * inside, None


def codebook(q: QParams, spec: QuantSpec) -> Codebook:
    """The values of a grid that is not uniform; ``q`` is ``()``, its zero point the parameter."""
    shape = SHAPES[spec.grid]
    units = shape.units(spec.bits, int(q.zero_point)).to(q.scale.device)
    values = (q.scale.double() * units).to(q.scale.dtype) - shape.offset
    return Codebook(values, (values[1:] + values[:-1]) / 2)


def outermost(q: QParams, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Least and greatest value of a grid that is not uniform, of the shape of its scale."""
    if spec.grid is GridKind.NORMAL:
        reach = q.scale * ((spec.quant_max - spec.quant_min) / 2)
        return -reach, reach
    values = codebook(q, spec).values
    return values[0], values[-1]


def grid_of(
    q: QParams, spec: QuantSpec, axis: int | None = None, ndim: int = 0
) -> Grid | Codebook | ScaledCodebook:
    """The grid that ``spec`` and ``q`` stand for; ``axis`` and ``ndim`` are ``make_grid``'s."""
    if spec.uniform:
        return make_grid(q, spec, axis, ndim)
    if spec.grid is not GridKind.NORMAL:
        return codebook(q, spec)
    scale = q.scale if axis is None or not q.scale.ndim else along(q.scale, axis, ndim)
    return scaled_codebook(step_of(scale, spec), spec.bits)
