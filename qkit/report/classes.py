# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Which classes quantization hurts most, and what they are taken for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qkit.report.evaluation import ClassReport, Mistake

WORST = 10
MISTAKES = 3


def worst_classes(
    before: Tensor, after: Tensor, labels: Tensor, names: Sequence[str], places: Sequence[int]
) -> tuple[ClassReport, ...]:
    """The classes that lost most images, worst first; those that lost none are left out.

    Args:
        before: the float model's answers ``(N,)``, as class indices.
        after: the quantized model's.
        labels: the right ones.
        names: readable name of each class.
        places: index of each of the N images in the data they come from.
    """
    right, still = before == labels, after == labels
    lost = torch.bincount(labels[right], minlength=len(names))
    lost -= torch.bincount(labels[still], minlength=len(names))
    order = sorted(range(len(names)), key=lambda index: (-int(lost[index]), names[index]))
    return tuple(
        _class_report(index, names, labels, right, after, places)
        for index in order[:WORST]
        if lost[index] > 0
    )


def _class_report(
    index: int,
    names: Sequence[str],
    labels: Tensor,
    right: Tensor,
    after: Tensor,
    places: Sequence[int],
) -> ClassReport:
    mine = labels == index
    answers, counts = after[mine & right & (after != index)].unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)[:MISTAKES]
    mistakes = []
    for answer, count in zip(answers[order].tolist(), counts[order].tolist(), strict=True):
        first = int((mine & right & (after == answer)).nonzero()[0])
        mistakes.append(Mistake(names[answer], count, places[first]))
    return ClassReport(
        name=names[index],
        samples=int(mine.sum()),
        float=float(right[mine].double().mean()),
        quantized=float((after[mine] == index).double().mean()),
        mistakes=tuple(mistakes),
    )
