# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Float, quantized and fine-tuned model on the same images, each image encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from qkit.clip.model import ClipModel
from qkit.data import Dataset
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.evaluate import EncodedImages, Evaluator, Scored
from qkit.pipeline.finetune.learned import Learned
from qkit.progress import Progress
from qkit.report.evaluation import Metric
from qkit.report.tuning import Gain


class Compared(NamedTuple):
    """The fine-tuned model, its evaluations beside the float model's, and what was gained."""

    clip: ClipModel
    metrics: tuple[Metric, ...]
    gains: tuple[Gain, ...]


def compare(
    clip: ClipModel, learned: Learned, targets: Sequence[Dataset], progress: Progress
) -> Compared:
    """Evaluate on ``targets``, before and after ``learned`` is put into the model, in place."""
    evaluator = Evaluator(clip, progress=progress)
    encoded = [evaluator.encode(target) for target in targets]
    before = [evaluator.score(one) for one in encoded]
    served = learned.applied_to(clip)
    tuned = Evaluator(served, progress=progress)
    after = [tuned.score(adapted(one, learned, tuned.batch_size)) for one in encoded]
    gains = tuple(_gain(*pair) for pair in zip(before, after, strict=True))
    return Compared(served, tuple(one.metric for one in after), gains)


@torch.no_grad()
def adapted(encoded: EncodedImages, learned: Learned, batch_size: int) -> EncodedImages:
    """Images as the model with the adapter encodes them, in batches of the same size."""
    if learned.adapter is None:
        return encoded
    device = learned.adapter.up.bias.device
    parts = encoded.features[Mode.QUANTIZE].split(batch_size)
    adapted = torch.cat([learned.adapter(part.to(device)).cpu() for part in parts])
    return replace(encoded, features={**encoded.features, Mode.QUANTIZE: adapted})


def _gain(before: Scored, after: Scored) -> Gain:
    """One evaluation of three models."""
    first = before.metric
    return Gain(
        data=first.data,
        task=first.task,
        float=first.float or {},
        quantized=first.quantized,
        tuned=after.metric.quantized,
        float_cosine=before.matching[Mode.OFF],
        quantized_cosine=before.matching[Mode.QUANTIZE],
        tuned_cosine=after.matching[Mode.QUANTIZE],
    )
