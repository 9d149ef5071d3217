# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a report says of one layer and of one block. All SQNR on calibration data, in dB."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Db = float
"""Decibels; infinite where nothing is lost, which JSON writes as null."""

BINS = 64


@dataclass(frozen=True, slots=True)
class HistogramReport:
    """Counts over equal bins.

    Attributes:
        low: lower end of the first bin.
        high: upper end of the last bin.
        counts: values in each bin.
    """

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TensorReport:
    """One operand of a layer: what was seen of it, and the grid that the calibrator gave it.

    Attributes:
        role: "weight", "input", "context", "query", "key", "value" or "probs".
        bits: bits of its integers.
        granularity: "tensor", "channel" or "token": extent of one scale.
        symmetric: whether its zero point is fixed at zero.
        values: distribution of all values, over calibration data or of the weight itself; the ends
            are its smallest and largest value.
        grid_low: value of the smallest integer, the least of all channels; None per token.
        grid_high: value of the largest integer, the greatest of all channels; None per token.
        step: distance of two neighbouring integers, median over channels; None per token, or where
            the grid is not uniform.
        span: share of the range seen (zero included) that the grid covers, median over channels;
            1 clips nothing; None per token.
        coordinates: what was done to it before it was rounded, in words; its values, grid and span
            are those after that. Empty where it is rounded as it is.
        grid: how its levels are spaced: "uniform", or a grid by its name in recipes.
    """

    role: str
    bits: int
    granularity: str
    symmetric: bool
    values: HistogramReport
    grid_low: float | None
    grid_high: float | None
    step: float | None
    span: float | None
    coordinates: str = ""
    grid: str = "uniform"


@dataclass(frozen=True, slots=True)
class Channel:
    """The channel of an input whose values reach furthest.

    Attributes:
        index: its number.
        share: share of the input's range that it alone takes up: 1 minus the range of all other
            channels over the range of all.
    """

    index: int
    share: float


@dataclass(frozen=True, slots=True)
class LayerReport:
    """How far one layer is off, whose fault it is, and what would mend it.

    Attributes:
        name: path in the swapped model.
        tower: "image" or "text".
        kind: "linear", "conv", "embedding", "projection" or "attention".
        block: index of the block within the tower; None outside the blocks.
        weight_bits: effective bits of the weight; None is float, or a layer without weight.
        act_bits: effective bits of the input (least of all operands); None is float.
        operands: effective bits of every operand by role; null is float.
        weight_sqnr_db: the stored weight alone, dB; None without an integer weight.
        local_sqnr_db: output with float inputs into this quantized layer: its own fault, dB.
        inherited_sqnr_db: output with what really arrives into this layer left float: the error
            that comes in and goes through, dB.
        cumulative_sqnr_db: output of the quantized model, all before it quantized too, dB.
        made: share of the error energy that the layer makes itself: local over local plus
            inherited, 0 to 1.
        cosine: between the float and the cumulative output, over all values, -1 to 1.
        clipped: share of the input's values beyond the grid's ends, 0 to 1; None for per-token or
            no input.
        weights: number of weight values.
        macs: multiply-accumulates for one image or text.
        tensors: its quantized operands, weight first.
        channel: the input's widest channel; None without a quantized input.
        token_spread: range of all of the input's values over the median token's; None likewise.
        errors: distribution of the output's local error, in units of the float output's root mean
            square; None where nothing is lost.
        trials: dB of local SQNR that one change to this layer gains (negative: loses), by change.
        dependency: of the next stage of its tower on the one that it is part of, a conditional
            entropy, nats; None in a tower's last stage, and where ``search_group`` is None.
        search_group: number of the group of layers that were searched together, from 0 in each
            tower; None outside the blocks, or where the calibrator searches no groups.
        cause: what makes or brings the error, in words.
        evidence: the figures that say so.
        remedy: what would mend it, and by how much.
    """

    name: str
    tower: str
    kind: str
    block: int | None
    weight_bits: int | None
    act_bits: int | None
    operands: Mapping[str, int | None]
    weight_sqnr_db: Db | None
    local_sqnr_db: Db
    inherited_sqnr_db: Db
    cumulative_sqnr_db: Db
    made: float
    cosine: float
    clipped: float | None
    weights: int
    macs: int
    tensors: tuple[TensorReport, ...] = ()
    channel: Channel | None = None
    token_spread: float | None = None
    errors: HistogramReport | None = None
    trials: Mapping[str, float] = field(default_factory=dict)
    dependency: float | None = None
    search_group: int | None = None
    cause: str = ""
    evidence: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class BlockReport:
    """The residual stream at the end of one transformer block.

    Attributes:
        name: path in the swapped model.
        tower: "image" or "text".
        index: place in its tower, from 0.
        local_sqnr_db: output of this quantized block on float input: made here, dB.
        cumulative_sqnr_db: output of the quantized model: what has piled up, dB.
        cosine: between the float and the quantized model's output, over all values, -1 to 1.
    """

    name: str
    tower: str
    index: int
    local_sqnr_db: Db
    cumulative_sqnr_db: Db
    cosine: float
