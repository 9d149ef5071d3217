# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A run folder in memory: the quantized model, and how it computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from qkit.artifact.folder import RunFolder
from qkit.clip.model import ClipModel
from qkit.errors import ModelError
from qkit.graph.layers import Layer
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.finetune.learned import Learned
from qkit.pipeline.texts import encode_classes
from qkit.progress import ignore
from qkit.recipe import Recipe
from qkit.report.model import ModelReport
from qkit.runtime.convert import Fallback


@dataclass(frozen=True, slots=True)
class Runtime:
    """How a model computes in integers.

    Attributes:
        name: as ``load_run`` takes it.
        kernel: what multiplies, in words; "" where nothing does.
        fallbacks: layers that compute in float all the same, and why.
    """

    name: str
    kernel: str
    fallbacks: tuple[Fallback, ...]


@dataclass(frozen=True)
class Run:
    """A run folder brought back to life.

    Attributes:
        folder: its manifest and where it lies.
        clip: the quantized model with tokenizer and preprocessing.
        layers: the model's layers.
        recipe: how it was quantized.
        learned: the prompt and the adapter of a fine-tuned run, both in use; None for other runs.
        runtime: how its model computes; None where integers are simulated in float.
    """

    folder: RunFolder
    clip: ClipModel
    layers: tuple[Layer, ...]
    recipe: Recipe
    learned: Learned | None = None
    runtime: Runtime | None = None

    @property
    def model(self) -> nn.Module:
        """The quantized model, in eval mode."""
        return self.clip.model

    @property
    def execution(self) -> Runtime:
        """How its model computes in integers.

        Raises:
            ModelError: it does not; it was loaded to be simulated.
        """
        if self.runtime is None:
            message = f"{self.folder.path} is simulated in float. Load it with a runtime: 'int8'."
            raise ModelError(message)
        return self.runtime

    @cached_property
    def report(self) -> ModelReport:
        """What was measured; made when it is asked for, since a served model needs none.

        Raises:
            ArtifactError: the stored report is damaged.
        """
        return ModelReport.from_dict(self.folder.report)

    @torch.no_grad()
    def class_embeddings(self, classnames: Sequence[str], templates: int = 7) -> Tensor:
        """The zero-shot classifier, ``(classes, dim)``, normalised.

        Names stand in the learned prompt where the run has one for them, else in 7 or 80 templates.

        Raises:
            DataError: there are no so many templates, or a name does not fit the prompt.
        """
        return encode_classes(self.clip, classnames, Mode.QUANTIZE, templates, ignore)
