# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Write a run folder atomically, and read one with every doubt raised as an error."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from qkit.errors import ArtifactError

FORMAT = 1
MODEL, MANIFEST, REPORT = "model.safetensors", "manifest.json", "report.json"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Contents of a run folder.

    Attributes:
        path: where it lies.
        manifest: how it was made (format, model, recipe, versions, data, seed).
        report: what was measured.
    """

    path: Path
    manifest: Mapping[str, Any]
    report: Mapping[str, Any]

    def tensors(self, name: str = MODEL) -> dict[str, Tensor]:
        """Read the model's tensors, or another file's, after checking them against the manifest.

        Raises:
            ArtifactError: the file is missing or not the one that was written.
        """
        file = self.path / name
        try:
            if _sha256(file) != self.manifest["files"][name]["sha256"]:
                raise ArtifactError(_damaged(self.path, f"{name} differs from what was written"))
            return load_file(file)
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise ArtifactError(_damaged(self.path, f"{name} cannot be read: {error}")) from error


def check_target(path: Path, overwrite: bool, mark: str = MANIFEST, kind: str = "run") -> None:
    """Refuse a target that cannot or must not be written, before any work is done.

    Args:
        path: folder to write.
        overwrite: it may be replaced, if it is one of this kind.
        mark: file that tells such a folder from others.
        kind: what the folder is, in a word.

    Raises:
        ArtifactError: it exists and may not be replaced, or its parent cannot be written.
    """
    if path.exists() and any(path.iterdir() if path.is_dir() else [path]):
        if not overwrite:
            message = f"{path} exists. Choose another --out, or pass --overwrite to replace it."
            raise ArtifactError(message)
        if not (path / mark).is_file():
            message = f"{path} is no {kind} folder, so it is not overwritten. Choose another --out."
            raise ArtifactError(message)
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror}. Choose another --out."
        raise ArtifactError(message) from error
    if not os.access(path.absolute().parent, os.W_OK):
        message = f"{path} cannot be written: its parent is read-only. Choose another --out."
        raise ArtifactError(message)


def write_run(
    path: Path,
    tensors: Mapping[str, Tensor],
    manifest: Mapping[str, Any],
    report: Mapping[str, Any],
    *,
    overwrite: bool = False,
    beside: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> None:
    """Write a run folder beside its place and move it there when it is complete.

    Whatever interrupts this (a full disk, Ctrl-C) leaves ``path`` as it was.

    Args:
        path: where.
        tensors: of the model.
        manifest: how it was made.
        report: what was measured.
        overwrite: replace a run folder that is there.
        beside: more files of tensors, by name.

    Raises:
        ArtifactError: see ``check_target``, or the disk refused.
    """
    check_target(path, overwrite)
    try:
        with written_whole(path) as partial:
            _write_files(partial, {MODEL: tensors, **(beside or {})}, manifest, report)
    except (TypeError, ValueError) as error:  # json met something it cannot write
        message = f"{path} could not be written: {error}. Use finite numbers and text as options."
        raise ArtifactError(message) from error


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A folder to write to; it replaces ``path`` when the block ends, and is gone if it fails.

    Raises:
        ArtifactError: the disk refused.
    """
    path = path.resolve()  # a link to a run is followed, not replaced
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
        try:
            partial.chmod(0o755)
            yield partial
            _move_into_place(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        message = (
            f"{path} could not be written: {error}. Nothing was kept; "
            "free some space or choose another --out."
        )
        raise ArtifactError(message) from error


def _write_files(
    folder: Path,
    contents: Mapping[str, Mapping[str, Tensor]],
    manifest: Mapping[str, Any],
    report: Mapping[str, Any],
) -> None:
    files: dict[str, dict[str, Any]] = {}
    for name, tensors in contents.items():
        path = folder / name
        save_file({key: t.contiguous() for key, t in tensors.items()}, path)
        files[name] = {"sha256": _sha256(path), "bytes": path.stat().st_size}
    size = sum(file["bytes"] for file in files.values())
    full_report = {**report, "size": {**report.get("size", {}), "quantized_bytes": size}}
    write_json(folder / MANIFEST, {"format": FORMAT, **manifest, "files": files})
    write_json(folder / REPORT, full_report)


def _move_into_place(partial: Path, path: Path) -> None:
    if not path.exists():
        partial.rename(path)
        return
    old = partial.with_name(f"{partial.name}.old")
    path.rename(old)
    try:
        partial.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def update_report(path: Path, report: Mapping[str, Any]) -> None:
    """Replace the report of a run folder; an interruption leaves the old one.

    Raises:
        ArtifactError: the disk refused.
    """
    partial = path / f".{REPORT}.partial"
    try:
        write_json(partial, report)
        partial.replace(path / REPORT)
    except OSError as error:
        message = (
            f"{path / REPORT} could not be written: {error.strerror}. Make the folder writable."
        )
        raise ArtifactError(message) from error
    finally:
        with suppress(OSError):  # a read-only disk refuses to remove even what is not there
            partial.unlink(missing_ok=True)


def read_run(path: Path) -> RunFolder:
    """Read manifest and report of a run folder.

    Raises:
        ArtifactError: there is none, it is damaged, or a newer qkit wrote it.
    """
    if not (path / MANIFEST).is_file():
        message = f"{path} is no run folder: it has no {MANIFEST}. Give the --out of a calibrate."
        raise ArtifactError(message)
    manifest = _read_json(path, MANIFEST)
    version = manifest.get("format")
    if not isinstance(version, int):
        raise ArtifactError(_damaged(path, f"{MANIFEST} names no format"))
    if version > FORMAT:
        message = f"{path} has format {version}, this qkit reads up to {FORMAT}. Upgrade qkit-clip."
        raise ArtifactError(message)
    return RunFolder(path, manifest, _read_json(path, REPORT))


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(_damaged(folder, f"{name} cannot be read: {error}")) from error
    if not isinstance(content, dict):
        raise ArtifactError(_damaged(folder, f"{name} is no JSON object"))
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object and wait until it lies on the disk; numbers must be finite."""
    text = json.dumps(content, indent=1, allow_nan=False)
    with path.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(path: Path, fact: str) -> str:
    return f"run folder {path} is damaged: {fact}. Calibrate again."
