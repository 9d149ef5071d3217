# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The vocabulary: how a tensor is quantized, where it sits, what was seen there, what was chosen.

Shapes used throughout: a per-tensor quantity is a 0-d tensor, a per-channel one is ``(channels,)``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from qkit.errors import RecipeError
from qkit.kinds import Granularity as Granularity  # the vocabulary is had from here
from qkit.kinds import GridKind as GridKind

if TYPE_CHECKING:
    from torch import Tensor

MIN_BITS = 2
MAX_BITS = 8
MAX_NORMAL_BITS = 6  # beyond, neighbours of a normal grid are no different integers of 8 bits

Role = Literal["weight", "input", "context", "query", "key", "value", "probs"]
"""Which tensor of a module: ``context`` is the key/value input of cross-attention."""


LayerKind = Literal["linear", "conv", "embedding", "projection", "attention"]
"""What a layer computes; "attention" is the core between the q, k, v and out layers."""

KINDS: tuple[LayerKind, ...] = get_args(LayerKind)
TOWERS = ("image", "text")


@dataclass(frozen=True, slots=True)
class QuantSpec:
    """How one tensor is quantized to ``bits``-bit integers.

    Symmetric tensors use signed integers and zero point 0, affine ones unsigned integers. A grid
    that is not uniform has unsigned codes and one scale for the whole tensor, or for each token.

    Raises:
        RecipeError: ``bits`` lies outside 2 to 8, or the grid allows no such sign or granularity.
    """

    bits: int
    symmetric: bool = False
    granularity: Granularity = Granularity.TENSOR
    grid: GridKind = GridKind.UNIFORM

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or not MIN_BITS <= self.bits <= MAX_BITS:
            message = f"bits = {self.bits!r} is not possible. Use a whole number from 2 to 8."
            raise RecipeError(message)
        if self.uniform:
            return
        if self.grid is GridKind.NORMAL:
            self._check_normal()
            return
        if self.symmetric:
            message = (
                f"grid = '{self.grid}' has no mirror image, so symmetric = true is not possible. "
                "Drop one of the two."
            )
            raise RecipeError(message)
        if self.granularity is not Granularity.TENSOR:
            message = (
                f"grid = '{self.grid}' has one scale, chosen by calibration: granularity "
                f"'{self.granularity}' is not possible. Use 'tensor', or grid = 'uniform'."
            )
            raise RecipeError(message)

    def _check_normal(self) -> None:
        if not self.symmetric and not self.dynamic:
            message = (
                "grid = 'normal' is its own mirror image, so symmetric = false is not possible "
                "with a fixed scale. Drop one of the two."
            )
            raise RecipeError(message)
        if self.bits > MAX_NORMAL_BITS:
            message = (
                f"grid = 'normal' has up to {MAX_NORMAL_BITS} bits, not {self.bits}. "
                "Use grid = 'uniform'."
            )
            raise RecipeError(message)

    @property
    def uniform(self) -> bool:
        """Whether the values of the codes are evenly spaced."""
        return self.grid is GridKind.UNIFORM

    @property
    def mixable(self) -> bool:
        """Whether channels may be mixed before rounding: neither scale nor grid depends on one."""
        unshaped = self.grid in (GridKind.UNIFORM, GridKind.NORMAL)
        return unshaped and self.granularity is not Granularity.CHANNEL

    def with_bits(self, bits: int) -> QuantSpec:
        """The same at other bits; uniform where a normal grid has not so many.

        Raises:
            RecipeError: ``bits`` lies outside 2 to 8.
        """
        wide = self.grid is GridKind.NORMAL and bits > MAX_NORMAL_BITS
        return replace(self, bits=bits, grid=GridKind.UNIFORM if wide else self.grid)

    @property
    def quant_min(self) -> int:
        """Smallest integer."""
        return -(1 << (self.bits - 1)) if self.symmetric else 0

    @property
    def quant_max(self) -> int:
        """Largest integer."""
        return self.quant_min + (1 << self.bits) - 1

    @property
    def dynamic(self) -> bool:
        """Whether the scale is taken from the data at run time instead of from calibration."""
        return self.granularity is Granularity.TOKEN

    def __str__(self) -> str:
        sign = "symmetric" if self.symmetric else "affine"
        kind = sign if self.uniform else self.grid.value
        return f"int{self.bits} {kind} per {self.granularity.value}"


@dataclass(frozen=True, slots=True)
class Scheme:
    """How one layer is quantized; None leaves that tensor in float.

    Attributes:
        weight: of a layer's weight.
        input: of what a layer reads.
        attention: of the operands of an attention core.
        probs: of its probabilities; None is as ``attention``.
    """

    weight: QuantSpec | None = None
    input: QuantSpec | None = None
    attention: QuantSpec | None = None
    probs: QuantSpec | None = None


@dataclass(frozen=True, slots=True, order=True)
class PointId:
    """Where a tensor sits: module path in the swapped model, and its role there."""

    module: str
    role: Role

    def __str__(self) -> str:
        return f"{self.module}:{self.role}"


class Range(NamedTuple):
    """Clipping range; both tensors have the shape of the scale that follows from it."""

    min: Tensor
    max: Tensor


class QParams(NamedTuple):
    """Scale (float32) and zero point (int32), both ``()`` or ``(channels,)``.

    A grid that is not uniform has no zero point; its own integer parameter is kept in its place
    (see ``qkit.grids``).
    """

    scale: Tensor
    zero_point: Tensor


class Affine(NamedTuple):
    """Gain and shift of the channels of an input, both ``(channels,)``, applied before rounding.

    Where the input comes from a LayerNorm, they are a change of that LayerNorm's own affine.
    """

    gain: Tensor
    shift: Tensor


class Rounding(NamedTuple):
    """A weight rounded with its layer's output in mind, not each value to the nearest level.

    Attributes:
        levels: integers of the weight's grid, in the weight's shape; None for the nearest.
        correction: ``(out,)``, added to the layer's output; None for nothing.
    """

    levels: Tensor | None = None
    correction: Tensor | None = None


class RoundedWeight(NamedTuple):
    """A weight's scale and the integers that were chosen with it."""

    qparams: QParams
    rounding: Rounding


class Histogram(NamedTuple):
    """Counts over equal bins between ``low`` and ``high``.

    counts: ``(bins,)`` or ``(channels, bins)``; low, high: ``()`` or ``(channels,)``.
    """

    counts: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True, slots=True)
class TensorStats:
    """What an observer saw.

    Attributes:
        min_val: smallest value, ``()`` or ``(channels,)``.
        max_val: largest value, same shape.
        histogram: distribution of an activation; None for weights.
        values: a weight as ``(channels, elements)``; None for activations, which are never kept.
    """

    min_val: Tensor
    max_val: Tensor
    histogram: Histogram | None = None
    values: Tensor | None = None
