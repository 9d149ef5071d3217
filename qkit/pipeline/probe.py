# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Ask what a part of the quantization does to the embedding space, on a few pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qkit.calibration.observe import Batch
from qkit.clip.model import logit_scale
from qkit.graph.layers import Layer
from qkit.graph.partial import Chosen, only
from qkit.pipeline.student import Student
from qkit.report.space import Embeddings, Space, compare_spaces
from qkit.spec import Role


def everything(layer: Layer, role: Role) -> bool:
    """Choose every operand."""
    return True


def nothing(layer: Layer, role: Role) -> bool:
    """Choose none."""
    return False


class Prober:
    """Compares parts of a quantized model with the float model, a tower at a time.

    Attributes:
        student: the float model with the run's points.
        batches: images and texts, kept as pixels and token numbers.
    """

    def __init__(self, student: Student, batches: Sequence[Batch]) -> None:
        self.student = student
        self.batches = batches
        self.scale = logit_scale(student.model)
        self.float = Embeddings(self.encode("image", nothing), self.encode("text", nothing))
        self.quantized = Embeddings(
            self.encode("image", everything), self.encode("text", everything)
        )

    @torch.no_grad()
    def encode(self, tower: str, chosen: Chosen) -> Tensor:
        """Normalised features ``(N, dim)`` of one tower with the ``chosen`` operands quantized."""
        model: Any = self.student.model
        parts = []
        with only(self.student.layers, chosen):
            for batch in self.batches:
                inputs = batch.images if tower == "image" else batch.texts
                if inputs is not None:
                    encode = model.encode_image if tower == "image" else model.encode_text
                    parts.append(F.normalize(encode(inputs).float(), dim=-1).cpu())
        return torch.cat(parts)

    def whole(self) -> Space:
        """The whole quantized model against the float model."""
        return compare_spaces(self.float, self.quantized, self.scale)

    def part(self, chosen: Chosen) -> Space:
        """The ``chosen`` operands quantized, the rest float, against the float model."""
        images, texts = self.encode("image", chosen), self.encode("text", chosen)
        return compare_spaces(self.float, Embeddings(images, texts), self.scale)

    def layer_alone(self, layer: Layer) -> Space:
        """One layer quantized; the other tower stays float."""
        changed = self.encode(layer.tower, lambda other, role: other.name == layer.name)
        return self._with(layer.tower, changed, self.float)

    def layer_spared(self, layer: Layer) -> Space:
        """One layer float, all others of both towers quantized."""
        changed = self.encode(layer.tower, lambda other, role: other.name != layer.name)
        return self._with(layer.tower, changed, self.quantized)

    def _with(self, tower: str, features: Tensor, rest: Embeddings) -> Space:
        field = "images" if tower == "image" else "texts"
        return compare_spaces(self.float, rest._replace(**{field: features}), self.scale)
