# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A CLIP model with what is needed to feed it, built by open_clip."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any

import open_clip
from open_clip.model import get_model_preprocess_cfg
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from qkit.clip.prompt import LearnedPrompt
from qkit.clip.text import cut_padding
from qkit.errors import ModelError

# what open_clip, torch and safetensors raise over names, configurations and files
LOAD_ERRORS = (
    AttributeError,
    EOFError,
    ImportError,
    KeyError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    UnpicklingError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class ClipModel:
    """A CLIP model with all that is needed to feed it.

    Attributes:
        spec: the name it was loaded by.
        model: the open_clip model, in eval mode.
        tokenizer: texts to token numbers ``(N, context)``.
        preprocess: image to pixels ``(3, H, W)``, as at test time.
        config: open_clip's ``model_cfg`` and ``preprocess_cfg``, enough to build it again.
        prompt: context vectors to encode texts with, in place of templates; None for none.
    """

    spec: str
    model: nn.Module
    tokenizer: Callable[[list[str]], Tensor]
    preprocess: Callable[[Image.Image], Tensor]
    config: Mapping[str, Any]
    prompt: LearnedPrompt | None = None

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token numbers on the model's device, ``(N, longest text)`` where the tower allows it."""
        tokens = cut_padding(self.model, self.tokenizer(list(texts)))
        return tokens.to(next(self.model.parameters()).device)


def assemble(
    spec: str, model: nn.Module, tokenizer: Callable[[list[str]], Tensor], config: dict[str, Any]
) -> ClipModel:
    """Put model, tokenizer and the preprocessing that the model asks for together."""
    preprocess_cfg = dict(get_model_preprocess_cfg(model))
    config["preprocess_cfg"] = preprocess_cfg
    transform = image_transform_v2(PreprocessCfg(**preprocess_cfg), is_train=False)
    return ClipModel(spec, model, tokenizer, transform, config)


def wrap(model: nn.Module) -> ClipModel:
    """Take an open_clip model that was loaded elsewhere; it can be quantized but not saved.

    Raises:
        ModelError: its tokenizer cannot be told from the model.
    """
    vocabulary = getattr(model, "vocab_size", None)
    tokenizer = open_clip.SimpleTokenizer(context_length=getattr(model, "context_length", 77))
    if vocabulary != tokenizer.vocab_size:
        message = (
            f"the tokenizer of a bare {type(model).__name__} with vocabulary {vocabulary} is not "
            "known. Load the model by name: qkit.load_model('NAME:TAG')."
        )
        raise ModelError(message)
    return assemble(type(model).__name__, model, tokenizer, {})


def logit_scale(model: Any) -> float:
    """The factor from cosine to logit, about 100 in most CLIP models; 1 where there is none."""
    scale: Tensor | None = getattr(model, "logit_scale", None)
    return 1.0 if scale is None else float(scale.detach().exp())


def first_line(error: Exception) -> str:
    """Return the first line of what open_clip said, without the end of its sentence."""
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    return textwrap.shorten(lines[0].rstrip(".:"), 200, placeholder=" ...")


@contextmanager
def quiet_open_clip() -> Iterator[None]:
    """open_clip logs what it then raises; keep the one line that qkit prints the only one."""
    root = logging.getLogger()
    before = root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
