# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Class names and captions as features: by a learned prompt where there is one for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from qkit.clip.model import ClipModel
from qkit.clip.prompt import LearnedPrompt
from qkit.clip.prompting import encode_prompted
from qkit.clip.zero_shot import class_embeddings, templates
from qkit.nn.tensor_quantizer import Mode
from qkit.progress import Advance


def encode_classes(
    clip: ClipModel, classnames: Sequence[str], mode: Mode, template_count: int, advance: Advance
) -> Tensor:
    """Normalised class embeddings ``(classes, dim)`` of the model as its points stand in ``mode``.

    ``advance`` counts templates, also where a prompt stands in for them.

    Raises:
        DataError: there are no so many templates, or a name does not fit the prompt.
    """
    forms, prompt = templates(template_count), _prompt(clip, mode, captions=False)
    if prompt is None:
        return class_embeddings(clip, classnames, forms, advance).cpu()
    found = encode_prompted(clip, prompt, classnames).cpu()
    advance(len(classnames) * template_count)
    return found


def encode_captions(clip: ClipModel, texts: Sequence[str], mode: Mode) -> Tensor:
    """Normalised features ``(texts, dim)`` of captions, likewise."""
    prompt = _prompt(clip, mode, captions=True)
    if prompt is not None:
        return encode_prompted(clip, prompt, texts).cpu()
    model: Any = clip.model
    return F.normalize(model.encode_text(clip.tokenize(texts)).float(), dim=-1).cpu()


def _prompt(clip: ClipModel, mode: Mode, *, captions: bool) -> LearnedPrompt | None:
    """The prompt, where one was learned on such texts; the float model has none."""
    prompt = clip.prompt if mode is Mode.QUANTIZE else None
    return prompt if prompt is not None and prompt.captions == captions else None
