# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a report says of an evaluation: accuracy before and after, and which classes suffer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qkit.report.space import Space

Share = float  # Metric has a field named float


@dataclass(frozen=True, slots=True)
class Mistake:
    """Images of a class that the float model named rightly and the quantized model does not.

    Attributes:
        taken_for: name of the class that the quantized model sees.
        count: how many.
        example: index of the first of them in the evaluated data.
    """

    taken_for: str
    count: int
    example: int


@dataclass(frozen=True, slots=True)
class ClassReport:
    """A class that lost accuracy.

    Attributes:
        name: its readable name.
        samples: its images.
        float: share that the float model names rightly, 0 to 1.
        quantized: share that the quantized model names rightly, 0 to 1.
        mistakes: what it is taken for now, the most frequent first.
    """

    name: str
    samples: int
    float: Share
    quantized: Share
    mistakes: tuple[Mistake, ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """One evaluation; ``float`` and ``quantized`` have the same keys, all fractions.

    Attributes:
        data: the source, as it was named.
        task: "classification" (top1, top5) or "retrieval" (image_to_text, text_to_image: r1, ...).
        quantized: figures of the quantized model, 0 to 1.
        float: figures of the float model on the same data; None where it was not at hand.
        agreement: share of queries whose top answer is the float model's; None likewise.
        samples: images evaluated.
        skipped: unreadable images left out.
        space: the embedding spaces compared; None where the float model was not at hand.
        worst_classes: those that lost most, worst first; empty for retrieval.
    """

    data: str
    task: str
    quantized: Mapping[str, Any]
    float: Mapping[str, Any] | None
    agreement: Share | None
    samples: int
    skipped: int = 0
    space: Space | None = None
    worst_classes: tuple[ClassReport, ...] = ()
