# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A rounded weight as the operand of an integer product, and what joins its layer's bias."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qkit.grids.normal import normal_levels, step_of
from qkit.nn.tensor_quantizer import TensorQuantizer
from qkit.spec import GridKind
from qkit.transform import Transform

CHUNK = 1 << 20


class IntegerWeight(NamedTuple):
    """A weight ``values * scale`` with one scale a row.

    values: ``(out, in)``, contiguous, whole numbers of 8 bits with a sign, as int8 or float32;
    scale: float32 ``(out,)``.
    """

    values: Tensor
    scale: Tensor


def integer_weight(codes: Tensor, quantizer: TensorQuantizer) -> IntegerWeight | str:
    """What codes stand for; no float copy is made of them.

    Args:
        codes: uint8 ``(out, in)``, how far each integer is above the lowest.
        quantizer: the weight's point, scales installed.

    Returns:
        the weight, or why it is no int8 operand.
    """
    spec, q = quantizer.spec, quantizer.qparams
    scale = q.scale.expand(len(codes)) if q.scale.ndim == 0 else q.scale
    if spec.grid is GridKind.NORMAL:
        table = codes.new_tensor(normal_levels(spec.bits), dtype=torch.int8)
        return IntegerWeight(_looked_up(codes, table), step_of(scale, spec).contiguous())
    if not spec.uniform:
        return f"a weight on grid = '{spec.grid}' is no int8 operand"
    shifts = (q.zero_point - spec.quant_min).expand(len(codes))
    if int(shifts.min()) < spec.quant_max - spec.quant_min - 127 or int(shifts.max()) > 128:
        return "its affine weight minus the zero point takes more than 8 bits"
    values = codes.view(torch.int8) - shifts.to(torch.uint8).view(torch.int8)[:, None]  # mod 256
    return IntegerWeight(values, scale.contiguous())


def _looked_up(codes: Tensor, table: Tensor) -> Tensor:
    """``table[codes]`` in pieces, since indices take four times the memory of codes."""
    found = torch.empty_like(codes, dtype=torch.int8)
    pieces = zip(codes.view(-1).split(CHUNK), found.view(-1).split(CHUNK), strict=True)
    for piece, into in pieces:
        torch.index_select(table, 0, piece.int(), out=into)
    return found


def integer_bias(
    weight: IntegerWeight,
    bias: Tensor | None,
    correction: Tensor | None,
    transform: Transform | None,
) -> Tensor | None:
    """Bias, correction, and what the mean of a centred input contributes, ``(out,)``.

    An input's mean is known beforehand: it meets the weight in the coordinates that the weight is
    stored in, once.
    """
    parts = [part.detach() for part in (bias, correction) if part is not None]
    if transform is not None and transform.shift is not None:
        mean = transform.into(2 * transform.shift)  # it takes the mean off once
        parts.append((weight.values.float() @ mean) * weight.scale)
    return torch.stack(parts).sum(0) if parts else None
