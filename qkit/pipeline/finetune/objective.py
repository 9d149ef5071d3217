# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What prompt and adapter learn from: features of the frozen towers, student's and teacher's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from qkit.clip.model import ClipModel, logit_scale
from qkit.data import Dataset
from qkit.nn.tensor_quantizer import Mode
from qkit.p4q.loss import Loss, Losses
from qkit.p4q.trainer import Parts
from qkit.pipeline.evaluate import Evaluator, Pair
from qkit.pipeline.finetune.step_texts import Texts


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """Features of the training images from the frozen image towers.

    Attributes:
        evaluator: runs the towers.
        dataset: the training samples.
        known: features by sample, encoded once; None runs the towers at each step.
    """

    evaluator: Evaluator
    dataset: Dataset
    known: Pair | None

    def of(self, samples: Tensor) -> Pair:
        """Features ``(N, dim)`` of some samples by mode, not normalised."""
        if self.known is not None:
            return {mode: features[samples] for mode, features in self.known.items()}
        chosen = tuple(self.dataset.samples[i] for i in samples.tolist())
        return self.evaluator.encode(replace(self.dataset, samples=chosen)).features


@dataclass(frozen=True, slots=True, eq=False)
class TowerObjective:
    """The loss of some samples.

    Attributes:
        clip: the frozen model.
        images: what it makes of the images.
        student: the texts as what learns reads them.
        teacher: the texts as the float model reads them; None without distillation.
        labels: class of each sample; None where each has captions of its own.
        parts: what learns.
        loss: of the logits.
    """

    clip: ClipModel
    images: Images
    student: Texts
    teacher: Texts | None
    labels: Tensor | None
    parts: Parts
    loss: Loss

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(self.images.dataset)

    def losses(self, samples: Tensor, epoch: int) -> Losses:
        """The loss of some samples, by number."""
        texts = self.student(samples, epoch)
        found = {mode: f.to(texts.device) for mode, f in self.images.of(samples).items()}
        adapter = self.parts.adapter
        images = found[Mode.QUANTIZE] if adapter is None else adapter(found[Mode.QUANTIZE])
        logits = self._logits(images, texts)
        wanted = None
        if self.teacher is not None:
            wanted = self._logits(found[Mode.OFF], self.teacher(samples, epoch))
        if self.labels is None:
            return self.loss.of_pairs(logits, wanted)
        return self.loss.of_classes(logits, wanted, self.labels[samples].to(texts.device))

    def _logits(self, images: Tensor, texts: Tensor) -> Tensor:
        return logit_scale(self.clip.model) * F.normalize(images, dim=-1) @ texts.T
