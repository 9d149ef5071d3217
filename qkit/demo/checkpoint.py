# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The demo checkpoint: half precision, and only the token rows that its texts can use."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

CONFIG = "open_clip_config.json"
WEIGHTS = "model.safetensors"
RECORD = "training.json"
LOADABLE = "open_clip_model.safetensors"
TABLE = "token_embedding.weight"
ROWS = "token_rows"


def read_config() -> dict[str, Any]:
    """open_clip's configuration of the demo model."""
    config: dict[str, Any] = json.loads(_shipped().joinpath(CONFIG).read_text(encoding="utf-8"))
    return config


def write_checkpoint(path: Path, state: Mapping[str, Tensor], rows: Sequence[int]) -> None:
    """Store a model's tensors in half precision, of the token table only the given rows."""
    kept = torch.tensor(sorted(rows))
    tensors = {name: tensor.detach().cpu() for name, tensor in state.items()}
    tensors[TABLE] = tensors[TABLE][kept]
    halves = {name: tensor.half().contiguous() for name, tensor in tensors.items()}
    save_file(halves | {ROWS: kept.int()}, path)


def expand_checkpoint(folder: Path, weights: Path | None = None) -> None:
    """Write a folder that open_clip's ``local-dir:`` loads.

    The rows of words that no text of the demo uses are zero: they were never trained.

    Args:
        folder: where to write; must exist.
        weights: a file of ``write_checkpoint``; the shipped one by default.
    """
    config = read_config()
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    with as_file(_shipped()) as shipped:
        stored = load_file(weights or shipped / WEIGHTS)
    rows = stored.pop(ROWS).long()
    tensors = {name: tensor.float() for name, tensor in stored.items()}
    table = torch.zeros(config["model_cfg"]["text_cfg"]["vocab_size"], tensors[TABLE].shape[1])
    table[rows] = tensors[TABLE]
    save_file(tensors | {TABLE: table}, folder / LOADABLE)


def _shipped() -> Any:
    return files("qkit.demo") / "weights"
