# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Stored integers of a weight as the int8 operand of a product."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qkit.artifact.packing import unpack
from qkit.grids.normal import normal_levels, step_of
from qkit.nn.tensor_quantizer import TensorQuantizer
from qkit.spec import GridKind

CHUNK = 1 << 20


class IntegerWeight(NamedTuple):
    """A weight ``values * scale`` with one scale a row.

    values: int8 ``(out, in)``, contiguous; scale: float32 ``(out,)``.
    """

    values: Tensor
    scale: Tensor


def integer_weight(
    packed: Tensor, shape: torch.Size, quantizer: TensorQuantizer
) -> IntegerWeight | str:
    """Unpack a weight ``(out, ...)``; no float copy is made of it.

    Args:
        packed: as stored.
        shape: of the weight.
        quantizer: its point, scales installed.

    Returns:
        the weight as rows, or why it is no int8 operand.
    """
    spec, q = quantizer.spec, quantizer.qparams
    codes = unpack(packed, spec.bits, (shape[0], shape[1:].numel()))
    scale = q.scale.expand(shape[0]) if q.scale.ndim == 0 else q.scale
    if spec.grid is GridKind.NORMAL:
        table = torch.tensor(normal_levels(spec.bits), dtype=torch.int8)
        return IntegerWeight(_looked_up(codes, table), step_of(scale, spec).contiguous())
    if not spec.uniform:
        return f"a weight on grid = '{spec.grid}' is no int8 operand"
    shifts = (q.zero_point - spec.quant_min).expand(shape[0])
    if int(shifts.min()) < spec.quant_max - spec.quant_min - 127 or int(shifts.max()) > 128:
        return "its affine weight minus the zero point takes more than 8 bits"
    values = codes.view(torch.int8) - shifts.to(torch.uint8).view(torch.int8)[:, None]  # mod 256
    return IntegerWeight(values, scale.contiguous())


def _looked_up(codes: Tensor, table: Tensor) -> Tensor:
    """``table[codes]`` in pieces, since indices take four times the memory of codes."""
    found = torch.empty(codes.shape, dtype=torch.int8)
    pieces = zip(codes.view(-1).split(CHUNK), found.view(-1).split(CHUNK), strict=True)
    for piece, into in pieces:
        torch.index_select(table, 0, piece.int(), out=into)
    return found
