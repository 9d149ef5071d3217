# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Load a model by its name: open_clip's, a folder's, or the demo."""

from __future__ import annotations

import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
from open_clip.pretrained import get_pretrained_cfg
from safetensors import SafetensorError

from qkit.clip.model import LOAD_ERRORS, ClipModel, assemble, first_line, quiet_open_clip
from qkit.demo.checkpoint import expand_checkpoint
from qkit.errors import ModelError, choices, nearest

RANDOM = "random"
DEMO = "demo"
SCHEMES = ("local-dir:", "hf-hub:")


def load_model(spec: str) -> ClipModel:
    """Load ``NAME:TAG``, ``NAME:FILE``, ``local-dir:FOLDER`` or ``hf-hub:ORG/REPO`` in fp32.

    ``NAME:random`` builds the architecture with random weights, to try things out; ``demo`` is the
    small model that qkit ships.

    Raises:
        ModelError: name or tag unknown, folder or file unusable, or the download failed.
    """
    if spec == DEMO:
        return _load_demo()
    if spec.startswith(SCHEMES):
        return _create(spec, spec, None, {"require_pretrained": True})
    name, colon, tag = spec.partition(":")
    name = name.replace("/", "-")
    known = architectures()
    if name not in known:
        message = (
            f"unknown model {name!r}.{nearest(name, [*known, DEMO])} "
            "Use an open_clip name (see `open_clip.list_models()`), local-dir:FOLDER or demo."
        )
        raise ModelError(message)
    if tag == RANDOM:
        return _create(spec, name, None, {})
    return _create(spec, name, tag, _tag_settings(name, tag, colon))


def architectures() -> list[str]:
    """Names of all architectures that open_clip can build."""
    return list(open_clip.list_models())


def _load_demo() -> ClipModel:
    with tempfile.TemporaryDirectory() as folder:
        try:
            expand_checkpoint(Path(folder))
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            message = (
                f"the demo model cannot be read: {first_line(error)}. Install qkit-clip again."
            )
            raise ModelError(message) from error
        return _create(DEMO, f"local-dir:{folder}", None, {"require_pretrained": True})


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
        with quiet_open_clip():
            config = _config(name, settings)
            model = open_clip.create_model(name, pretrained=tag, **settings)
            tokenizer = open_clip.get_tokenizer(name)
    except LOAD_ERRORS as error:
        raise ModelError(_explain(spec, name, tag, error)) from error
    if not hasattr(model, "encode_image") or not hasattr(model, "encode_text"):
        message = f"{spec!r} is no CLIP model: it cannot encode images and texts. Use one that can."
        raise ModelError(message)
    return assemble(spec, model.eval(), tokenizer, config)


def _config(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    model_cfg = deepcopy(open_clip.get_model_config(name))
    if model_cfg is None:
        message = f"no configuration found for {name!r}"
        raise ValueError(message)
    if settings.get("force_quick_gelu"):
        model_cfg["quick_gelu"] = True
    return {"model_cfg": model_cfg}


def _explain(spec: str, name: str, tag: str | None, error: Exception) -> str:
    cause = first_line(error)
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
