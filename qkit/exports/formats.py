# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The formats that a run can be exported to, and the backends that prove each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from torch import Tensor, nn

from qkit.errors import ExportError, choices, nearest
from qkit.exports import compiled, onnx, openvino
from qkit.exports.operators import KernelOperators, OnnxOperators, Operators
from qkit.exports.optional import installed, require
from qkit.exports.towers import Signature


class Loaded(Protocol):
    """A tower that was loaded back."""

    @property
    def integer_products(self) -> int:
        """Products that run on int8 kernels."""

    def __call__(self, x: Tensor) -> Tensor:
        """Features ``(N, dim)`` of pixels or tokens."""


class Writer(Protocol):
    """Writes a tower; see ``onnx.write_onnx``."""

    def __call__(
        self, tower: nn.Module, signature: Signature, path: Path, *, any_length: bool
    ) -> int:
        """Write to ``path``; products of integers."""


@dataclass(frozen=True, slots=True)
class Backend:
    """What runs an export.

    Attributes:
        name: as it is shown.
        package: that it is; its version is shown, too.
        load: a file as a tower, with so many threads; None is as many as torch has.
    """

    name: str
    package: str
    load: Callable[[Path, int | None], Loaded]

    def __str__(self) -> str:
        return f"{self.name} {version(self.package)}"


@dataclass(frozen=True, slots=True)
class Format:
    """A format.

    Attributes:
        name: as ``--format`` takes it.
        suffix: of a tower's file.
        packages: that it cannot do without.
        check: refuses a machine that it cannot be written on.
        operators: makes its dialect.
        write: writes a tower.
        backends: that can run it; the first must be there, others are used where they are.
    """

    name: str
    suffix: str
    packages: tuple[str, ...]
    check: Callable[[], None]
    operators: Callable[[], Operators]
    write: Writer
    backends: tuple[Backend, ...]

    def require(self) -> None:
        """Refuse to begin where something is missing.

        Raises:
            ExportError: a package or a compiler.
        """
        for package in self.packages:
            require(package, f"--format {self.name}")
        self.check()

    @property
    def present(self) -> tuple[Backend, ...]:
        """Backends that are installed."""
        return tuple(backend for backend in self.backends if installed(backend.package))

    def file(self, folder: Path, tower: str) -> Path:
        """Where a tower lies."""
        return folder / f"{tower}{self.suffix}"


def _nothing() -> None:
    """A format that needs packages only."""


ORT = Backend("ONNX Runtime", "onnxruntime", onnx.OnnxTower)
OPENVINO = Backend("OpenVINO", "openvino", openvino.OpenVinoTower)
AOT = Backend("AOTInductor of torch", "torch", compiled.CompiledTower)
WRITES_ONNX = onnx.PACKAGES

FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "onnx": Format(
            "onnx",
            ".onnx",
            (*WRITES_ONNX, "onnxruntime"),
            _nothing,
            OnnxOperators,
            onnx.write_onnx,
            (ORT, OPENVINO),
        ),
        "openvino": Format(
            "openvino",
            ".xml",
            (*WRITES_ONNX, "openvino"),
            _nothing,
            OnnxOperators,
            openvino.write_openvino,
            (OPENVINO,),
        ),
        "compiled": Format(
            "compiled",
            ".pt2",
            (),
            compiled.check_compiler,
            KernelOperators,
            compiled.write_compiled,
            (AOT,),
        ),
    }
)


def format_of(name: str) -> Format:
    """A format by its name.

    Raises:
        ExportError: there is none.
    """
    if name not in FORMATS:
        message = f"unknown format {name!r}.{nearest(name, FORMATS)} Use: {choices(FORMATS)}."
        raise ExportError(message)
    return FORMATS[name]
