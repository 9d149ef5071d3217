# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The only stateful point of a quantized model: observes one tensor, later rounds it."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Self

import torch
from torch import Tensor, nn

from qkit.errors import CalibrationError
from qkit.grids.codebook import Codebook, grid_of
from qkit.grids.normal import ScaledCodebook
from qkit.grids.tokens import token_grid
from qkit.grids.weights import weight_integers, weight_values
from qkit.nn.operand import Operand, Rounder
from qkit.numerics import Grid, along, learned_fake_quantize, token_qparams
from qkit.observers import Observer, make_observer, read_stats
from qkit.spec import Affine, PointId, QParams, QuantSpec, Rounding, TensorStats
from qkit.transform import Transform


class Mode(Enum):
    """What a point does with the tensors that pass it."""

    OFF = "off"
    OBSERVE = "observe"
    QUANTIZE = "quantize"


class TensorQuantizer(nn.Module):
    """Fake quantization of one tensor, with scales that are set from outside.

    Unlike torch.ao's FakeQuantize it keeps no observer in the state dict, computes its constants
    once and not at every call, and knows its own name.

    Attributes:
        point: where it sits.
        spec: how the tensor is quantized.
        axis: channel axis of the tensor.
        fired: calls so far in a mode other than OFF; 0 after calibration means a silent no-op.
        version: grows whenever the grid changes, so that a rounded weight is known to be stale.
        learned_scale: a scale that is being learned and stands in for the installed one.
        learned_weight: a rounded weight that is being learned, as rows in the coordinates of the
            transform; it stands in for what is installed.
        dropped: share of the values of an input that stay as they are, at random, while a model
            learns (QDrop, arXiv 2203.05740); drawn anew at every call.
        transform: coordinates in which it observes and rounds; a weight has that of its input.
        folded: what it rounds stays in these coordinates, for a product with what is folded, too.
        rounder: what makes integers of an input, or why nothing does; None until it is asked for.
    """

    scale: Tensor | None
    zero_point: Tensor | None
    gain: Tensor | None
    shift: Tensor | None
    levels: Tensor | None
    correction: Tensor | None

    def __init__(self, point: PointId, spec: QuantSpec, axis: int) -> None:
        super().__init__()
        self.point = point
        self.spec = spec
        self.axis = axis
        self.mode = Mode.OFF
        self.fired = 0
        self.version = 0
        self.observer: Observer | None = None
        self._grids: dict[int, Grid | Codebook | ScaledCodebook] = {}
        for name in ("scale", "zero_point", "gain", "shift", "levels", "correction"):
            self.register_buffer(name, None)
        self.learned_scale: Tensor | None = None
        self.learned_weight: Tensor | None = None
        self.dropped = 0.0
        self.transform: Transform | None = None
        self.folded = False
        self.rounder: Rounder | str | None = None

    def set_mode(self, mode: Mode) -> None:
        """Switch between OFF, OBSERVE and QUANTIZE; what was observed so far is kept."""
        self.mode = mode

    def set_qparams(self, q: QParams) -> None:
        """Install scale and zero point, ``()`` or ``(channels,)``; drops observer and rounding."""
        self.scale, self.zero_point = q
        self.observer = None
        self._grids.clear()
        self.set_rounding(None)

    def set_affine(self, affine: Affine | None) -> None:
        """Set what is applied to the input's channels (its last axis) before rounding, or nothing.

        It comes and goes with the rounding: in mode OFF the input passes as it is.
        """
        self.gain, self.shift = affine or (None, None)

    def set_transform(self, transform: Transform | None) -> None:
        """Set the coordinates to round in; drops what was observed and chosen in others."""
        self.transform = transform
        self.scale = self.zero_point = self.observer = None
        self._grids.clear()
        self.set_rounding(None)

    def set_rounding(self, rounding: Rounding | None) -> None:
        """Fix the integers of a weight, and what its layer adds to its output, or neither."""
        self.levels, self.correction = rounding or (None, None)
        self.rounder = None
        self.version += 1

    @property
    def qparams(self) -> QParams:
        """The installed scale and zero point.

        Raises:
            CalibrationError: none was installed yet.
        """
        if self.scale is None or self.zero_point is None:
            message = f"{self.point} has no scale yet. Calibrate the model first."
            raise CalibrationError(message)
        return QParams(self.scale, self.zero_point)

    def stats(self) -> TensorStats:
        """What the observer saw so far.

        Raises:
            CalibrationError: nothing was observed.
        """
        if self.observer is None:
            message = f"{self.point} saw no data. Run calibration data through the model first."
            raise CalibrationError(message)
        return read_stats(self.observer)

    def forward(self, x: Tensor, rounder: Rounder | None = None) -> Tensor | Operand:
        """Return ``x`` as it is, or rounded to the grid in mode QUANTIZE; as integers if asked."""
        if self.mode is Mode.OFF:
            return x
        self.fired += 1
        if self.mode is Mode.OBSERVE:
            self._observe(x)
            return x
        return self.round(x) if rounder is None else rounder.whole(x.flatten(0, -2))

    def round(self, x: Tensor) -> Tensor:
        """``x`` rounded to the grid, whatever the mode; does not count as a call."""
        if self.learned_weight is not None:
            return self.out_of(self.learned_weight, x)
        if self.levels is not None:
            return self.dequantized(self.levels)
        z = self.coordinates(x)
        if self.learned_scale is None:
            rounded = self._grid(z).round(z)
        else:
            rounded = learned_fake_quantize(z, self._qparams_of(z), self.spec)
        if self.dropped:
            rounded = torch.where(torch.rand_like(z) < self.dropped, z, rounded)
        return self.out_of(rounded, x)

    @property
    def learns(self) -> bool:
        """Whether what it rounds to is being learned, so that nothing may be kept of it."""
        return self.learned_scale is not None or self.learned_weight is not None

    def integers(self, weight: Tensor) -> Tensor:
        """What a weight is stored as: the levels that were set, or the nearest; int16."""
        if self.levels is not None:
            return self.levels
        levels = weight_integers(self.into(weight), self.qparams, self.spec, self.axis)
        return levels.view_as(weight)

    def dequantized(self, levels: Tensor) -> Tensor:
        """The weight that ``levels``, in its shape, stand for."""
        rows = levels if self.transform is None else levels.flatten(1)
        return self.out_of(weight_values(rows, self.qparams, self.spec, self.axis), levels)

    def positions(self, x: Tensor) -> Tensor:
        """Where ``x`` lies on the grid, in steps from the lowest level; unrounded if uniform."""
        z = self.coordinates(x)
        if not self.spec.uniform:
            grid = self._grid(z)
            assert not isinstance(grid, Grid)  # only uniform specs have one
            return grid.codes(z).to(z.dtype)
        scale, zero_point = self._qparams_of(z)
        return z / scale + (zero_point - self.spec.quant_min)

    def coordinates(self, x: Tensor) -> Tensor:
        """``x`` as it is rounded: its channels' gain and shift applied, then the transform."""
        adjusted = x if self.gain is None or self.shift is None else x * self.gain + self.shift
        return self.into(adjusted)

    def into(self, x: Tensor) -> Tensor:
        """``x`` in the coordinates of the transform; a weight becomes rows then."""
        if self.transform is None:
            return x
        weighs = self.point.role == "weight"
        return self.transform.weight_into(x) if weighs else self.transform.into(x)

    def out_of(self, z: Tensor, like: Tensor) -> Tensor:
        """Back from the coordinates of the transform, in the shape of ``like``."""
        if self.transform is None or self.folded:
            return z.view_as(like)
        if self.point.role == "weight":
            return self.transform.weight_out_of(z).view_as(like)
        return self.transform.out_of(z)

    def _qparams_of(self, x: Tensor) -> QParams:
        """Scale and zero point, broadcastable to ``x``; the scale as it is being learned, if so."""
        if self.spec.dynamic:
            return token_qparams(x, self.spec, self._clip)
        scale = self.qparams.scale if self.learned_scale is None else self.learned_scale
        both = (scale, self.qparams.zero_point)
        return QParams(*(along(t, self.axis, x.ndim) if t.ndim else t for t in both))

    @property
    def _clip(self) -> float:
        return 1.0 if self.transform is None else self.transform.clip

    def _observe(self, x: Tensor) -> None:
        low, high = torch.aminmax(x.detach())
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            message = (
                f"{self.point} holds NaN or infinite values during calibration. "
                "Check the checkpoint, or leave this layer in float with an ignore rule."
            )
            raise CalibrationError(message)
        if self.observer is None:
            self.observer = make_observer(self.spec, self.axis).to(x.device)
        self.observer(self.into(x.detach()))

    def _grid(self, x: Tensor) -> Grid | Codebook | ScaledCodebook:
        if self.spec.dynamic:
            return token_grid(x.detach(), self.spec, self._clip)  # its range passes no gradient
        if x.ndim not in self._grids:
            self._grids[x.ndim] = grid_of(self.qparams, self.spec, self.axis, x.ndim)
        return self._grids[x.ndim]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._grids.clear()
        self.rounder = None
        self.version += 1
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def extra_repr(self) -> str:
        """Point, spec and mode, for ``print(model)``."""
        return f"{self.point}, {self.spec}, {self.mode.value}"
