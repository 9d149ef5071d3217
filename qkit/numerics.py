# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Uniform quantization as pure functions: range to scale, rounding, and how far it is off."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.ao.quantization.utils import determine_qparams

from qkit.spec import QParams, QuantSpec, Range

EPS = torch.finfo(torch.float32).eps


class Grid(NamedTuple):
    """Constants of one fake quantization: ``clamp(round(x * inv_scale), low, high) * scale``.

    The bounds are already shifted by the zero point, which saves two passes over the data.
    Plain floats for one scale, broadcastable tensors for several.
    """

    inv_scale: float | Tensor
    scale: float | Tensor
    low: float | Tensor
    high: float | Tensor

    def round(self, x: Tensor) -> Tensor:
        """See ``fake_quantize``."""
        return fake_quantize(x, self)


def qparams_from_range(range_: Range, spec: QuantSpec) -> QParams:
    """Turn a clipping range into scale and zero point, exactly as torch.ao's observers do.

    Zero always lies on the grid. A symmetric scale is absmax / ((quant_max - quant_min) / 2), that
    is absmax / 7.5 at 4 bits. A zero-width range gets the smallest scale (1.2e-7), never 0.
    """
    scale, zero_point = determine_qparams(
        range_.min,
        range_.max,
        spec.quant_min,
        spec.quant_max,
        torch.qint8 if spec.symmetric else torch.quint8,
        torch.tensor(EPS),
        has_customized_qrange=True,
        qscheme=torch.per_tensor_symmetric if spec.symmetric else torch.per_tensor_affine,
    )
    shape = range_.min.shape
    return QParams(
        scale.to(torch.float32).reshape(shape), zero_point.to(torch.int32).reshape(shape)
    )


def token_qparams(x: Tensor, spec: QuantSpec, clip: float = 1.0) -> QParams:
    """Scale and zero point of every token of ``x`` ``(..., features)``; both are ``(..., 1)``.

    Same formula as ``qparams_from_range``, kept free of its argument checks: it runs in a forward.
    A ``clip`` below 1 leaves out as much at either end of each token's range.
    """
    low = x.amin(dim=-1, keepdim=True).clamp(max=0)
    high = x.amax(dim=-1, keepdim=True).clamp(min=0)
    if clip != 1.0:
        low, high = low * clip, high * clip
    steps = spec.quant_max - spec.quant_min
    if spec.symmetric:
        scale = (torch.maximum(-low, high) / (steps / 2)).clamp(min=EPS)
        return QParams(scale, torch.zeros_like(scale, dtype=torch.int32))
    scale = ((high - low) / steps).clamp(min=EPS)
    zero_point = (spec.quant_min - torch.round(low / scale)).clamp(spec.quant_min, spec.quant_max)
    return QParams(scale, zero_point.to(torch.int32))


def make_grid(q: QParams, spec: QuantSpec, axis: int | None = None, ndim: int = 0) -> Grid:
    """Precompute the constants of ``fake_quantize``.

    Args:
        q: scale and zero point, ``()`` or ``(channels,)`` or already broadcastable.
        spec: bounds of the integers.
        axis: dimension of the data that ``(channels,)`` runs along; None to broadcast as they are.
        ndim: number of dimensions of the data; needed with ``axis``.
    """
    inv_scale = 1.0 / q.scale
    low, high = spec.quant_min - q.zero_point, spec.quant_max - q.zero_point
    if q.scale.ndim == 0:
        return Grid(inv_scale.item(), q.scale.item(), float(low.item()), float(high.item()))
    floats = (inv_scale, q.scale, low.to(q.scale.dtype), high.to(q.scale.dtype))
    return Grid(*(t if axis is None else along(t, axis, ndim) for t in floats))


def along(values: Tensor, axis: int, ndim: int) -> Tensor:
    """Values ``(channels,)`` in the shape that runs along ``axis`` of data of ``ndim`` axes."""
    return values.reshape([-1 if d == axis % ndim else 1 for d in range(ndim)])


class _FakeQuantize(torch.autograd.Function):
    """Round to the grid; the gradient passes straight through where nothing was clipped."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, grid: Grid) -> Tensor:
        levels = torch.mul(x, grid.inv_scale).round_()
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            ctx.save_for_backward((levels >= grid.low) & (levels <= grid.high))
        return _clamp_(levels, grid).mul_(grid.scale)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad * inside, None


def _clamp_(levels: Tensor, grid: Grid) -> Tensor:
    return levels.clamp_(grid.low, grid.high)  # type: ignore[arg-type]  # bounds are of one kind


def fake_quantize(x: Tensor, grid: Grid) -> Tensor:
    """Round ``x`` to the grid and back to float; straight-through gradient (clipped identity).

    Equal to ``torch.fake_quantize_per_tensor_affine`` and its per-channel sibling, bit for bit but
    for the sign of zero, at a fraction of their cost: the mask for the gradient is made only where
    one is asked for.
    """
    result: Tensor = _FakeQuantize.apply(x, grid)  # type: ignore[no-untyped-call]
    return result


def learned_fake_quantize(x: Tensor, q: QParams, spec: QuantSpec) -> Tensor:
    """Round ``x`` to a grid whose scale is being learned; ``q`` must broadcast to ``x``.

    The gradient passes straight through the rounding, to ``x`` where nothing was clipped and to the
    scale everywhere: by the rounding error inside the grid, by its end outside (LSQ, arXiv
    1902.08153, Eq 3).
    """
    levels = x / q.scale
    levels = levels + (levels.round() - levels).detach()
    low, high = spec.quant_min - q.zero_point, spec.quant_max - q.zero_point
    return levels.clamp(low, high) * q.scale


def quantize(x: Tensor, q: QParams, spec: QuantSpec, axis: int | None = None) -> Tensor:
    """Round ``x`` to integers in ``[quant_min, quant_max]``; int16, so that any spec fits."""
    grid = make_grid(q, spec, axis, x.ndim)
    levels = _clamp_(torch.mul(x, grid.inv_scale).round_(), grid)
    return levels.sub_(torch.as_tensor(grid.low) - spec.quant_min).to(torch.int16)


def dequantize(levels: Tensor, q: QParams, spec: QuantSpec, axis: int | None = None) -> Tensor:
    """Inverse of ``quantize``: equals ``fake_quantize`` of the original bit for bit."""
    grid = make_grid(q, spec, axis, levels.ndim)
    shifted = levels.to(torch.float32).add_(torch.as_tensor(grid.low) - spec.quant_min)
    return shifted.mul_(grid.scale)


def sqnr_db(signal: float, noise: float) -> float:
    """Signal to quantization noise ratio in dB of two energies; infinite where there is no noise.

    Without any signal the ratio says nothing: it is 0 dB where there is noise.
    """
    if noise == 0.0:
        return float("inf")
    if signal == 0.0:
        return 0.0
    return 10.0 * float(torch.log10(torch.tensor(signal / noise, dtype=torch.float64)))
