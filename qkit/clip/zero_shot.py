# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Zero-shot prompts: open_clip's templates around class names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.zero_shot_metadata import (
    IMAGENET_CLASSNAMES,
    OPENAI_IMAGENET_TEMPLATES,
    SIMPLE_IMAGENET_TEMPLATES,
)
from torch import Tensor

from qkit.clip.model import ClipModel
from qkit.errors import DataError
from qkit.progress import Advance

Template = Callable[[str], str]
TEXT_BATCH = 64
TEMPLATE_COUNTS = (len(SIMPLE_IMAGENET_TEMPLATES), len(OPENAI_IMAGENET_TEMPLATES))


def templates(count: int) -> tuple[Template, ...]:
    """open_clip's 7 simple or 80 full prompt templates.

    Raises:
        DataError: there is no set of that size.
    """
    known = {len(s): s for s in (SIMPLE_IMAGENET_TEMPLATES, OPENAI_IMAGENET_TEMPLATES)}
    if count not in known:
        message = f"there is no set of {count} templates. Use one of: {', '.join(map(str, known))}."
        raise DataError(message)
    return tuple(known[count])


def class_embeddings(
    clip: ClipModel,
    classnames: Sequence[str],
    prompts: Sequence[Template],
    advance: Advance,
) -> Tensor:
    """Mean of the normalised prompt features of every class, normalised: ``(classes, dim)``."""
    model: Any = clip.model
    texts = [prompt(name) for name in classnames for prompt in prompts]
    features = []
    for start in range(0, len(texts), TEXT_BATCH):
        batch = texts[start : start + TEXT_BATCH]
        features.append(F.normalize(model.encode_text(clip.tokenize(batch)).float(), dim=-1))
        advance(len(batch))
    by_class = torch.cat(features).unflatten(0, (len(classnames), len(prompts)))
    return F.normalize(by_class.mean(dim=1), dim=-1)


def sample_prompts(count: int, seed: int, classnames: Sequence[str] = ()) -> list[str]:
    """Draw texts for calibration where the data have no captions: templates around class names.

    ``classnames`` defaults to open_clip's 1,000 ImageNet names.
    """
    rng = np.random.default_rng(seed)
    names = list(classnames) or list(IMAGENET_CLASSNAMES)
    picked = rng.choice(len(names), size=count, replace=count > len(names))
    forms = rng.integers(len(OPENAI_IMAGENET_TEMPLATES), size=count)
    return [OPENAI_IMAGENET_TEMPLATES[f](names[n]) for n, f in zip(picked, forms, strict=True)]
