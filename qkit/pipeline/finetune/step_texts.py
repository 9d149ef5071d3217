# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What student and teacher read in a step: class names or captions, by hand or with the prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from qkit.clip.model import ClipModel
from qkit.clip.prompt_layout import lay_out
from qkit.clip.prompting import Encoder, prompt_encoder
from qkit.data import Dataset
from qkit.graph.layers import list_points
from qkit.nn.switching import in_mode
from qkit.nn.tensor_quantizer import Mode
from qkit.p4q.config import P4QConfig
from qkit.p4q.trainer import Parts
from qkit.pipeline.evaluate import Pair
from qkit.precision import half_products

Texts = Callable[[Tensor, int], Tensor]
"""From samples and epoch to normalised text features ``(texts, dim)``."""


def class_texts(
    clip: ClipModel, names: Sequence[str], config: P4QConfig, parts: Parts, fixed: Pair
) -> tuple[Texts, Texts | None]:
    """Student's and teacher's class embeddings; ``fixed`` are those of the templates."""
    if parts.prompt is None or config.prompt is None:
        student = _always(fixed[Mode.QUANTIZE])
    else:
        prompt = config.prompt
        layout = lay_out(clip, names, prompt_length(parts), prompt.position, captions=False)
        encode = prompt_encoder(clip.model, layout, shared=parts.prompt.shared)
        student = partial(_prompted, parts, lambda samples, epoch: encode)
        if config.loss.teacher_text == "prompt":
            return student, _distilled(config, partial(_in_float, clip, student))
    return student, _distilled(config, _always(fixed[Mode.OFF]) if Mode.OFF in fixed else None)


def caption_texts(
    clip: ClipModel, dataset: Dataset, config: P4QConfig, parts: Parts, fixed: Pair
) -> tuple[Texts, Texts | None]:
    """Student's and teacher's features of one caption of each sample, drawn anew each epoch.

    ``fixed`` are those of all captions, sample by sample.
    """
    owned = Captions(dataset, config.seed)
    rows = {mode: partial(owned.rows, features) for mode, features in fixed.items()}
    if parts.prompt is None or config.prompt is None:
        student: Texts = rows[Mode.QUANTIZE]
    else:
        student = partial(_prompted, parts, partial(_caption_encoder, clip, config, parts, owned))
        if config.loss.teacher_text == "prompt":
            return student, _distilled(config, partial(_in_float, clip, student))
    return student, _distilled(config, rows.get(Mode.OFF))


@dataclass(frozen=True, slots=True)
class Captions:
    """Which caption stands for a sample in an epoch.

    Attributes:
        dataset: captioned samples.
        seed: of the choice.
    """

    dataset: Dataset
    seed: int

    def chosen(self, samples: Tensor, epoch: int) -> list[int]:
        """Numbers of captions, counted over all samples in order."""
        counts = np.array([len(sample.texts) for sample in self.dataset.samples])
        rng = np.random.default_rng([self.seed, epoch, 1])  # 0 would be the order's own
        picked = counts.cumsum() - counts + rng.integers(counts)
        return [int(picked[sample]) for sample in samples.tolist()]

    def texts(self, samples: Tensor, epoch: int) -> list[str]:
        """The captions themselves."""
        every = [text for sample in self.dataset.samples for text in sample.texts]
        return [every[number] for number in self.chosen(samples, epoch)]

    def rows(self, features: Tensor, samples: Tensor, epoch: int) -> Tensor:
        """Those rows of ``features`` ``(captions, dim)`` that belong to the chosen captions."""
        return features[self.chosen(samples, epoch)]


def prompt_length(parts: Parts) -> int:
    """Number of context vectors."""
    assert parts.prompt is not None
    return parts.prompt.context.shape[-2]


def _caption_encoder(
    clip: ClipModel, config: P4QConfig, parts: Parts, owned: Captions, samples: Tensor, epoch: int
) -> Encoder:
    assert config.prompt is not None
    texts = owned.texts(samples, epoch)
    layout = lay_out(clip, texts, prompt_length(parts), config.prompt.position, captions=True)
    return prompt_encoder(clip.model, layout, shared=True)


def _prompted(
    parts: Parts, encoder: Callable[[Tensor, int], Encoder], samples: Tensor, epoch: int
) -> Tensor:
    assert parts.prompt is not None
    with half_products(parts.prompt.context.device):  # adapter, logits and loss stay in float32
        found: Tensor = parts.prompt(encoder(samples, epoch))
    return found


def _in_float(clip: ClipModel, texts: Texts, samples: Tensor, epoch: int) -> Tensor:
    with torch.no_grad(), in_mode(list_points(clip.model), Mode.OFF):
        return texts(samples, epoch)


def _always(features: Tensor) -> Texts:
    return lambda samples, epoch: features


def _distilled(config: P4QConfig, texts: Texts | None) -> Texts | None:
    return texts if config.loss.distill else None
