# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a tower learns from: samples, and the float embeddings that they are to have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from calibrators.reconstruction.views import crops
from qkit.calibration.bench import Rig
from qkit.calibration.running import switched

Lessons = Callable[[int], tuple[Tensor, Tensor]]
"""By the number of a batch: samples, and their normalised float embeddings ``(N, dim)``."""


def embedding(rig: Rig, samples: Tensor) -> Tensor:
    """Normalised float embeddings ``(N, dim)`` of a batch of a tower's samples."""
    with switched(rig.points.values(), False), torch.no_grad():
        return F.normalize(rig.encode(samples).float(), dim=-1)


def embeddings(rig: Rig) -> list[Tensor]:
    """Those of all samples, by batch."""
    return [embedding(rig, batch) for batch in rig.samples]


def lessons(rig: Rig, targets: Sequence[Tensor], crops: int) -> Lessons:
    """What a tower learns from.

    Args:
        rig: the tower.
        targets: float embeddings of its samples.
        crops: of an image for each time it is seen as it is; texts have none.
    """
    if rig.tower != "image" or not crops:
        return lambda number: (rig.samples[number], targets[number])
    return Cropped(rig, targets, crops / (crops + 1))


@dataclass(frozen=True, slots=True)
class Cropped:
    """Images as they are, or, as often as ``share`` says, crops that are drawn anew each time.

    Chance is torch's own (CPU), which a training seeds and, interrupted, keeps.
    """

    rig: Rig
    targets: Sequence[Tensor]
    share: float

    def __call__(self, number: int) -> tuple[Tensor, Tensor]:
        """See ``Lessons``."""
        images = self.rig.samples[number]
        if float(torch.rand(())) >= self.share:
            return images, self.targets[number]
        found = crops(images)
        return found, embedding(self.rig, found)
