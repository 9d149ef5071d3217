# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Which figures of an evaluation the pages show, in which unit, and what they mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qkit.report.evaluation import Metric
from qkit.report.figures import figure_name
from qkit.report.page.formats import Unit
from qkit.report.space import Space


@dataclass(frozen=True, slots=True)
class SpaceFigure:
    """How one property of an embedding space is shown.

    Attributes:
        label: its name.
        unit: "percent" or "number".
        after: field of ``Space`` that holds it.
        before: field that holds the float model's; None where there is none.
        better: 1 where more is better, -1 where less is, 0 where any change is bad.
        meaning: what it says, in plain words.
    """

    label: str
    unit: Unit
    after: str
    before: str | None
    better: int
    meaning: str


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one evaluation of one model.

    Attributes:
        label: its name.
        unit: "percent" or "number".
        better: 1 where more is better, -1 where less is, 0 where any change is bad.
        before: the float model's; None where it was not measured or makes no sense.
        after: the quantized model's; None where it was not measured.
    """

    label: str
    unit: Unit
    better: int
    before: float | None
    after: float | None


SPACE_FIGURES = (
    SpaceFigure(
        "image cosine",
        "number",
        "image_cosine",
        None,
        1,
        "How closely quantized image embeddings point where the float model's did: 1 is the same "
        "direction, 0 is unrelated.",
    ),
    SpaceFigure(
        "text cosine",
        "number",
        "text_cosine",
        None,
        1,
        "The same for the embeddings of texts or class names.",
    ),
    SpaceFigure(
        "logit KL, nats",
        "number",
        "logit_kl",
        None,
        -1,
        "How far the probabilities over all texts, given an image, moved away from the float "
        "model's: 0 is no change; there is no upper end.",
    ),
    SpaceFigure(
        "same top-1, %",
        "percent",
        "top1_agreement",
        None,
        1,
        "Share of images for which both models find the same text the best, right or wrong.",
    ),
    SpaceFigure(
        "churn of top 10, %",
        "percent",
        "churn",
        None,
        -1,
        "Share of the float model's ten best texts of an image that dropped out of the ten best: "
        "what a user of a search would see change. The best half where there are fewer than 20 "
        "texts.",
    ),
    SpaceFigure(
        "modality gap",
        "number",
        "gap_quantized",
        "gap_float",
        0,
        "Distance between the average image and the average text embedding. A shift means that "
        "all images moved relative to all texts, which thresholds on similarity will feel.",
    ),
    SpaceFigure(
        "ECE, %",
        "percent",
        "ece_quantized",
        "ece_float",
        -1,
        "Expected calibration error: by how much confidence and accuracy differ on average. 0 "
        "means that answers given with 80 % confidence are right 80 % of the time. Needs labels.",
    ),
    SpaceFigure(
        "scale drift",
        "number",
        "scale_drift",
        None,
        0,
        "The factor on the quantized model's logit scale that brings its probabilities closest to "
        "the float model's: 1 is no drift; below 1 the quantized model is too sure of itself, "
        "above 1 not sure enough.",
    ),
)


def accuracy_rows(metric: Metric) -> list[Row]:
    """Figures of accuracy, float and quantized."""
    before = dict(flatten(metric.float or {}))
    return [
        Row(figure_name(path), "percent", 1, before.get(path), value)
        for path, value in flatten(metric.quantized)
    ]


def space_rows(space: Space) -> list[Row]:
    """Figures of an embedding space, all of them."""
    return [
        Row(
            figure.label,
            figure.unit,
            figure.better,
            None if figure.before is None else getattr(space, figure.before),
            getattr(space, figure.after),
        )
        for figure in SPACE_FIGURES
    ]


def is_worse(row: Any, before: float | None, after: float | None) -> bool:
    """Whether a figure of a row got worse from ``before`` to ``after``."""
    if before is None or after is None:
        return False
    return bool(row.better * (after - before) < 0)


def flatten(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of nested mappings by dotted path."""
    for key, value in figures.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
