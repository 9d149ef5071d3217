# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The report as data: everything that any view shows comes from here (``report.json``)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from qkit.errors import ArtifactError
from qkit.graph.coverage import Coverage, LeftFloat

Share = float  # Metric has a field of that name


@dataclass(frozen=True, slots=True)
class LayerReport:
    """How far one layer is off, on calibration data. SQNR in dB; infinite where nothing is lost.

    Attributes:
        name: path in the swapped model.
        tower: "image" or "text".
        kind: "linear", "conv", "embedding", "projection" or "attention".
        block: index of the transformer block; None outside the blocks.
        weight_bits: effective bits of the weight; None is float, or a layer without weight.
        act_bits: effective bits of the input (least of all operands); None is float.
        operands: effective bits of every operand by role.
        weight_sqnr_db: the stored weight alone; None without an integer weight.
        local_sqnr_db: output with float inputs into this quantized layer: its own fault.
        cumulative_sqnr_db: output with everything before it quantized too: what arrives here.
        cosine: between the float and the cumulative output, over all values.
        clipped: fraction of the input beyond the grid's ends; None for per-token or no input.
        weights: number of weight values.
        macs: multiply-accumulates for one image or text.
    """

    name: str
    tower: str
    kind: str
    block: int | None
    weight_bits: int | None
    act_bits: int | None
    operands: Mapping[str, int | None]
    weight_sqnr_db: float | None
    local_sqnr_db: float
    cumulative_sqnr_db: float
    cosine: float
    clipped: float | None
    weights: int
    macs: int


@dataclass(frozen=True, slots=True)
class Metric:
    """One evaluation; ``float`` and ``quantized`` have the same keys, all fractions.

    Attributes:
        data: the source, as it was named.
        task: "classification" (top1, top5) or "retrieval" (image_to_text, text_to_image: r1, ...).
        quantized: figures of the quantized model.
        float: figures of the float model on the same data; None where it was not at hand.
        agreement: share of queries whose top answer is the float model's; None likewise.
        samples: images evaluated.
        skipped: unreadable images left out.
    """

    data: str
    task: str
    quantized: Mapping[str, Any]
    float: Mapping[str, Any] | None
    agreement: Share | None
    samples: int
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class ModelReport:
    """All that was measured of one quantized model.

    Attributes:
        label: e.g. "W4A4 attn8, mse".
        model: the model's name.
        metrics: one entry per evaluation, in the order asked for.
        embedding_cosine: mean cosine of float and quantized embeddings, by tower.
        coverage: share of weights and of multiply-accumulates quantized, and what is not.
        size: ``float_bytes`` (fp32) and, once written, ``quantized_bytes`` of the model file.
        timing: seconds by phase.
        calibration: images, texts and skipped files the scales come from.
        layers: one entry per layer, in module order.
    """

    label: str
    model: str
    metrics: tuple[Metric, ...]
    embedding_cosine: Mapping[str, float]
    coverage: Coverage
    size: Mapping[str, int]
    timing: Mapping[str, float]
    calibration: Mapping[str, Any]
    layers: tuple[LayerReport, ...] = field(default_factory=tuple)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; an infinite SQNR is written as null."""
        out: dict[str, Any] = _finite(asdict(self))
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelReport:
        """Inverse of ``to_dict``.

        Raises:
            ArtifactError: something is missing or left over.
        """
        try:
            content = {f.name: data[f.name] for f in fields(cls)}
            content["metrics"] = tuple(Metric(**metric) for metric in data["metrics"])
            content["coverage"] = _coverage(data["coverage"])
            content["layers"] = tuple(_layer(layer) for layer in data["layers"])
            return cls(**content)
        except (KeyError, TypeError) as error:
            message = f"report.json is damaged: {error}. Calibrate again."
            raise ArtifactError(message) from error


def _layer(data: Mapping[str, Any]) -> LayerReport:
    layer = dict(data)
    for key in ("local_sqnr_db", "cumulative_sqnr_db"):
        layer[key] = math.inf if layer[key] is None else layer[key]
    if layer["weight_sqnr_db"] is None and layer["weight_bits"] is not None:
        layer["weight_sqnr_db"] = math.inf
    return LayerReport(**layer)


def _coverage(data: Mapping[str, Any]) -> Coverage:
    left = tuple(LeftFloat(**item) for item in data["left_float"])
    return Coverage(**{**data, "left_float": left})


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(item) for item in value]
    return value
