# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a tower makes of samples on their way: the float one, or the one that learns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from qkit.calibration.bench import Rig, Stream
from qkit.calibration.running import switched


@dataclass(frozen=True, slots=True)
class Passage:
    """What a tower makes of a batch of samples.

    Attributes:
        ends: the residual stream behind every block, ``(..., width)``; none where blocks do not
            simply follow each other.
        embedding: normalised ``(N, dim)``.
    """

    ends: Stream
    embedding: Tensor


def passage(rig: Rig, samples: Tensor) -> Passage:
    """Send samples through a tower, its points as they are switched."""
    with _ends(rig) as ends:
        embedding = F.normalize(rig.encode(samples).float(), dim=-1)
    return Passage(ends, embedding)


def float_passage(rig: Rig, samples: Tensor) -> Passage:
    """Send samples through the float tower, without gradients."""
    with switched(rig.points.values(), False), torch.no_grad():
        return passage(rig, samples)


@contextmanager
def _ends(rig: Rig) -> Iterator[Stream]:
    """Collect the stream behind every block."""
    ends: Stream = []
    handles = [
        stage.module.register_forward_hook(lambda _, __, output: ends.append(output))
        for stage in rig.stages
    ]
    try:
        yield ends
    finally:
        for handle in handles:
            handle.remove()
