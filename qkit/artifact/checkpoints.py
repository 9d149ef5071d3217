# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Parts of a result in a folder, kept until the whole is done."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from qkit.errors import ArtifactError

KEY = "key.json"


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """A memory on disk; see ``calibration.memory.Memory``.

    Attributes:
        folder: one file a part, beside the key.
    """

    folder: Path

    def recall(self, name: str) -> dict[str, Tensor] | None:
        """What was kept under ``name``; None where nothing was.

        Raises:
            ArtifactError: the file is damaged.
        """
        file = self.folder / f"{name}.safetensors"
        if not file.exists():
            return None
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            message = f"{file} cannot be read: {error}. Delete it; that part is then done again."
            raise ArtifactError(message) from error

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a part beside its place and move it there when it is complete.

        Raises:
            ArtifactError: the disk refused.
        """
        partial = self.folder / f".{name}.partial"
        try:
            save_file({key: t.contiguous() for key, t in tensors.items()}, partial)
            partial.replace(self.folder / f"{name}.safetensors")
        except (OSError, SafetensorError) as error:
            message = f"{self.folder} could not be written: {error}. Free some space and try again."
            raise ArtifactError(message) from error


def open_checkpoints(folder: Path, key: Mapping[str, Any]) -> Checkpoints:
    """Open a folder of parts, or begin one.

    Args:
        folder: where.
        key: what the parts depend on; only parts with the same key are used.

    Raises:
        ArtifactError: the folder holds parts of something else, or cannot be written.
    """
    wanted = json.dumps(key, sort_keys=True, indent=1)
    try:
        if (folder / KEY).exists() and (folder / KEY).read_text(encoding="utf-8") != wanted:
            message = (
                f"{folder} holds interrupted work on another model, recipe or data. "
                "Delete it, or choose another --out."
            )
            raise ArtifactError(message)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / KEY).write_text(wanted, encoding="utf-8")
    except OSError as error:
        message = f"{folder} cannot be written: {error.strerror}. Choose another --out."
        raise ArtifactError(message) from error
    return Checkpoints(folder)


def drop_checkpoints(folder: Path) -> None:
    """Remove a folder of parts, or of folders of parts, if there is one."""
    if (folder / KEY).is_file() or any(folder.glob(f"*/{KEY}")):
        shutil.rmtree(folder, ignore_errors=True)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors, as hexadecimal digits."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()
