# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What one has to know to feed an export: shapes, preprocessing, tokenizer, scale of the logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qkit.clip.model import ClipModel, logit_scale
from qkit.exports.formats import Format
from qkit.exports.towers import Signature

CLIP_TOKENIZER = "CLIP's byte-pair encoding (open_clip.SimpleTokenizer)"


def describe(
    clip: ClipModel, form: Format, signatures: Mapping[str, Signature], *, any_length: bool
) -> dict[str, Any]:
    """The interface as plain data.

    Args:
        clip: the run's model.
        form: of the files.
        signatures: of the towers.
        any_length: texts may be shorter than the context.
    """
    model: Any = clip.model
    bias = getattr(model, "logit_bias", None)
    length = signatures["text"].shape[0]
    return {
        "model": clip.spec,
        "towers": {
            name: {
                "file": f"{name}{form.suffix}",
                "input": {
                    "name": signature.input,
                    "type": "float32" if name == "image" else "int64",
                    "shape": ["batch", *_shape(name, signature, any_length=any_length)],
                },
                "output": {"name": signature.output, "type": "float32", "normalised": False},
            }
            for name, signature in signatures.items()
        },
        "preprocessing": dict(clip.config["preprocess_cfg"]),
        "tokenizer": _tokenizer(clip),
        "context_length": length,
        "logit_scale": logit_scale(model),
        "logit_bias": 0.0 if bias is None else float(bias.detach()),
    }


def _shape(tower: str, signature: Signature, *, any_length: bool) -> tuple[int | str, ...]:
    open_length = tower == "text" and any_length
    return (f"1 to {signature.shape[0]}",) if open_length else signature.shape


def _tokenizer(clip: ClipModel) -> str:
    text = clip.config["model_cfg"].get("text_cfg", {})
    return str(text.get("hf_tokenizer_name") or CLIP_TOKENIZER)
