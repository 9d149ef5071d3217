# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""An input on its way into the layers that read it: rounded once for all of them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from qkit.nn.operand import Operand
from qkit.nn.rounders import rounder_of
from qkit.nn.tensor_quantizer import Mode, TensorQuantizer


class Arrival:
    """What arrives at a point, which is asked only for what a layer needs.

    Attributes:
        x: ``(..., in)``, as it arrived.
        point: where; None for an input that stays as it is.
    """

    def __init__(self, x: Tensor, point: TensorQuantizer | None) -> None:
        self.x = x
        self.point = point

    @cached_property
    def rounded(self) -> Tensor:
        """The input as the point passes it on."""
        return self.x if self.point is None else self.point(self.x)

    @cached_property
    def operand(self) -> Operand | None:
        """The input as whole numbers; None where the point does not make it so, or must not.

        A gradient needs the rounded floats, and half precision products would round the sums.
        """
        point, x = self.point, self.x
        if point is None or point.mode is not Mode.QUANTIZE:
            return None
        half = x.dtype != torch.float32 or torch.is_autocast_enabled(x.device.type)
        learning = torch.is_grad_enabled() or point.learns or point.folded or point.dropped
        if learning or half or x.ndim < 2:
            return None
        if point.rounder is None:
            point.rounder = rounder_of(point)
        if isinstance(point.rounder, str):
            return None
        made: Any = point(x, point.rounder)
        return made if isinstance(made, Operand) else None


class First(Arrival):
    """The first tokens of an arrival ``(N, L, in)``, rounded along with the others."""

    def __init__(self, whole: Arrival, tokens: int) -> None:
        super().__init__(whole.x[:, :tokens], whole.point)
        self.whole = whole
        self.tokens = tokens

    @cached_property
    def rounded(self) -> Tensor:
        """The input as the point passes it on."""
        first: Tensor = self.whole.rounded[:, : self.tokens]
        return first

    @cached_property
    def operand(self) -> Operand | None:
        """The input as whole numbers; see ``Arrival.operand``."""
        operand = self.whole.operand
        if operand is None:
            return None
        values, scale, zero, excess = operand
        if not isinstance(scale, float):
            scale = self._cut(scale)
        excess = None if excess is None else self._cut(excess)
        return Operand(self._cut(values), scale, zero, excess)

    def _cut(self, rows: Tensor) -> Tensor:
        first: Tensor = rows.unflatten(0, self.whole.x.shape[:2])[:, : self.tokens]
        return first.flatten(0, 1)
