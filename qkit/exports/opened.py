# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""An export folder brought back to life."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from qkit.errors import ArtifactError, ExportError
from qkit.exports.formats import Backend, Format, Loaded, format_of
from qkit.exports.towers import TOWERS

PROOF = "export.json"


@dataclass(frozen=True, slots=True)
class ExportFolder:
    """What ``export.json`` says.

    Attributes:
        path: where the folder lies.
        proof: all of it.
        form: of its files.
    """

    path: Path
    proof: Mapping[str, Any]
    form: Format

    @property
    def backend(self) -> Backend:
        """The one that runs it first of all."""
        return self.form.backends[0]

    @property
    def bytes(self) -> int:
        """Of its files, the proof left out."""
        return sum(self.proof["files"].values())

    def load(self, threads: int | None, cut: Callable[[Tensor], Tensor]) -> ExportedModel:
        """Load both towers.

        Args:
            threads: to run on; None is as many as torch has.
            cut: leaves out of tokens what no text needs; used where texts may be short.

        Raises:
            ExportError: a package is missing, or a file cannot be loaded.
        """
        loaded = {
            name: self.backend.load(self.form.file(self.path, name), threads) for name in TOWERS
        }
        short = isinstance(self.proof["interface"]["towers"]["text"]["input"]["shape"][1], str)
        return ExportedModel(loaded, cut if short else None)


def read_export(path: Path, source: str) -> ExportFolder:
    """Read an export folder.

    Args:
        path: where it lies.
        source: SHA-256 of the run's tensors that it is to be of.

    Raises:
        ArtifactError: there is none, it is damaged, or it is of another run.
        ExportError: it failed its proof.
    """
    file = path / PROOF
    if not file.is_file():
        message = f"{path} is no export folder: it has no {PROOF}. Give the --out of an export."
        raise ArtifactError(message)
    try:
        proof = json.loads(file.read_text(encoding="utf-8"))
        form, of, passed = format_of(proof["format"]), proof["source"], proof["passed"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"export folder {path} is damaged: {error}. Export again."
        raise ArtifactError(message) from error
    if of != source:
        message = f"{path} is an export of another run. Export this one, or name that run."
        raise ArtifactError(message)
    if not passed:
        message = f"{path} failed its proof, so it is not used. Look at its {PROOF}."
        raise ExportError(message)
    return ExportFolder(path, proof, form)


class ExportedModel(nn.Module):
    """Both towers of an export, called as open_clip's models are."""

    def __init__(
        self, towers: Mapping[str, Loaded], cut: Callable[[Tensor], Tensor] | None
    ) -> None:
        super().__init__()
        self._towers, self._cut = towers, cut

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Features ``(N, dim)`` of pixels ``(N, 3, H, W)``."""
        return self._towers["image"](pixels)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Features ``(N, dim)`` of tokens ``(N, context)``."""
        return self._towers["text"](tokens if self._cut is None else self._cut(tokens))
