# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a fine-tuning brought."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from qkit.errors import ArtifactError
from qkit.report.codec import structure
from qkit.report.figures import FIGURES, figure_name, read_figure

TABLE = "p4q"  # of a run folder's manifest
HEADLINES = {
    "classification": FIGURES["classification"][:1],
    "retrieval": FIGURES["retrieval"][::3],
}
Share = float  # Gain has a field named float


@dataclass(frozen=True, slots=True)
class Gain:
    """One evaluation of three models: float zero-shot, quantized, and quantized with P4Q.

    Attributes:
        data: the source.
        task: "classification" or "retrieval".
        float: figures of the float model, fractions (see ``report.figures``).
        quantized: the same of the quantized model.
        tuned: the same with prompt and adapter.
        float_cosine: mean cosine of images and their own texts in the float model, -1 to 1.
        quantized_cosine: the same in the quantized model.
        tuned_cosine: the same with prompt and adapter.
    """

    data: str
    task: str
    float: Mapping[str, Any]
    quantized: Mapping[str, Any]
    tuned: Mapping[str, Any]
    float_cosine: Share
    quantized_cosine: Share
    tuned_cosine: Share


@dataclass(frozen=True, slots=True)
class TuningReport:
    """A fine-tuning in figures.

    Attributes:
        images: training images.
        epochs: passes over them that were done.
        loss: mean training loss of the last.
        accuracy: share of right answers in the last, on training data, 0 to 1.
        added: numbers that were added to the model.
        share: of the model's own numbers.
        seconds: spent on the epochs.
        gains: one an evaluation.
    """

    images: int
    epochs: int
    loss: float
    accuracy: float
    added: int
    share: float
    seconds: float
    gains: tuple[Gain, ...]


class GainRow(NamedTuple):
    """A figure of three models; shares of 1, but for the cosine, the last of an evaluation."""

    label: str
    share: bool
    float: Share
    quantized: Share
    tuned: Share


def gain_rows(gain: Gain) -> Iterator[GainRow]:
    """The headlines of an evaluation, and the cosine."""
    for figure in HEADLINES[gain.task]:
        models = (gain.float, gain.quantized, gain.tuned)
        shares = (read_figure(figures, figure) for figures in models)
        yield GainRow(figure_name(figure), True, *shares)
    cosines = (gain.float_cosine, gain.quantized_cosine, gain.tuned_cosine)
    yield GainRow("cosine", False, *cosines)


def read_tuning(manifest: Mapping[str, Any]) -> TuningReport | None:
    """What the manifest of a fine-tuned run says; None of any other run.

    Raises:
        ArtifactError: it is damaged.
    """
    if TABLE not in manifest:
        return None
    try:
        return structure(manifest[TABLE]["report"], TuningReport)
    except (KeyError, TypeError) as error:
        message = f"manifest.json is damaged: {error} is missing. Fine-tune again."
        raise ArtifactError(message) from error
