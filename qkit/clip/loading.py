# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Get a model, its tokenizer and its preprocessing from open_clip."""

from __future__ import annotations

import json
import logging
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import open_clip
from open_clip.model import get_model_preprocess_cfg
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from qkit.errors import ModelError, choices, nearest

RANDOM = "random"
SCHEMES = ("local-dir:", "hf-hub:")
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
    """

    spec: str
    model: nn.Module
    tokenizer: Callable[[list[str]], Tensor]
    preprocess: Callable[[Image.Image], Tensor]
    config: Mapping[str, Any]


def load_model(spec: str) -> ClipModel:
    """Load ``NAME:TAG``, ``NAME:FILE``, ``local-dir:FOLDER`` or ``hf-hub:ORG/REPO`` in fp32.

    ``NAME:random`` builds the architecture with random weights, to try things out.

    Raises:
        ModelError: name or tag unknown, folder or file unusable, or the download failed.
    """
    if spec.startswith(SCHEMES):
        return _create(spec, spec, None, {"require_pretrained": True})
    name, colon, tag = spec.partition(":")
    name = name.replace("/", "-")
    known = architectures()
    if name not in known:
        message = (
            f"unknown model {name!r}.{nearest(name, known)} "
            "Use an open_clip name (see `open_clip.list_models()`) or local-dir:FOLDER."
        )
        raise ModelError(message)
    if tag == RANDOM:
        return _create(spec, name, None, {})
    return _create(spec, name, tag, _tag_settings(name, tag, colon))


def architectures() -> list[str]:
    """Names of all architectures that open_clip can build."""
    return list(open_clip.list_models())


def _tag_settings(name: str, tag: str, colon: str) -> dict[str, Any]:
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not colon or (tag not in tags and not Path(tag).is_file()):
        fact = (
            f"{tag!r} is no pretrained tag or weights file of {name}"
            if colon
            else (f"{name!r} names no weights")
        )
        message = f"{fact}.{nearest(tag, tags)} Use {name}:TAG with one of: {choices(tags)}."
        raise ModelError(message)
    # OpenAI's weights were trained with another GELU than the plain names build
    quick = bool((get_pretrained_cfg(name, tag) or {}).get("quick_gelu", False))
    return {"force_quick_gelu": True} if quick else {}


def _create(spec: str, name: str, tag: str | None, settings: dict[str, Any]) -> ClipModel:
    try:
        with _quiet_open_clip():
            config = _config(name, settings)
            model = open_clip.create_model(name, pretrained=tag, **settings)
            tokenizer = open_clip.get_tokenizer(name)
    except LOAD_ERRORS as error:
        raise ModelError(_explain(spec, name, tag, error)) from error
    if not hasattr(model, "encode_image") or not hasattr(model, "encode_text"):
        message = f"{spec!r} is no CLIP model: it cannot encode images and texts. Use one that can."
        raise ModelError(message)
    return assemble(spec, model.eval(), tokenizer, config)


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


def rebuild(spec: str, config: Mapping[str, Any]) -> ClipModel:
    """Build the architecture that ``config`` describes again, with random weights.

    Raises:
        ModelError: open_clip cannot build it.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
        name = f"local-dir:{folder}"
        try:
            with _quiet_open_clip():
                model = open_clip.create_model(name, load_weights=False)
                tokenizer = open_clip.get_tokenizer(name)
        except LOAD_ERRORS as error:
            cause = _first_line(error)
            message = (
                f"the stored architecture of {spec!r} cannot be built: {cause}. Check versions."
            )
            raise ModelError(message) from error
    return assemble(spec, model.eval(), tokenizer, dict(config))


def _config(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    model_cfg = deepcopy(open_clip.get_model_config(name))
    if model_cfg is None:
        message = f"no configuration found for {name!r}"
        raise ValueError(message)
    if settings.get("force_quick_gelu"):
        model_cfg["quick_gelu"] = True
    return {"model_cfg": model_cfg}


def _explain(spec: str, name: str, tag: str | None, error: Exception) -> str:
    cause = _first_line(error)
    if isinstance(error, ImportError):
        remedy = "Install the package that this model needs."
    elif name.startswith("local-dir:"):
        remedy = "The folder needs open_clip_config.json and its weights (*.safetensors)."
    elif tag is not None and Path(tag).is_file():
        remedy = f"Check that {tag} holds weights of {name}."
    elif tag is not None or name.startswith("hf-hub:"):
        remedy = (
            "Check the network, or download the weights elsewhere and pass NAME:FILE "
            "or local-dir:FOLDER."
        )
    else:
        remedy = "Check the model's name."
    return f"model {spec!r} could not be loaded: {cause}. {remedy}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    return textwrap.shorten(lines[0].rstrip(".:"), 200, placeholder=" ...")


@contextmanager
def _quiet_open_clip() -> Iterator[None]:
    """open_clip logs what it then raises; keep the one line that qkit prints the only one."""
    root = logging.getLogger()
    before = root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
