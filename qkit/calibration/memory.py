# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a long step has done so far, so that an interrupted one goes on where it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from qkit.spec import PointId, QParams, RoundedWeight, Rounding


class Memory(Protocol):
    """Keeps named parts of a result."""

    def recall(self, name: str) -> Mapping[str, Tensor] | None:
        """What was kept under ``name``; None where nothing was."""
        ...

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep ``tensors`` under ``name``."""
        ...


class Forgetful:
    """The default: keeps nothing."""

    def recall(self, name: str) -> None:
        """Nothing."""

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Let them go."""


def as_tensors(rounded: Mapping[PointId, RoundedWeight]) -> dict[str, Tensor]:
    """Rounded weights under flat names, for a memory."""
    found: dict[str, Tensor | None] = {}
    for point, (q, rounding) in rounded.items():
        parts = {**q._asdict(), **rounding._asdict()}
        found |= {f"{point.module}.{name}": tensor for name, tensor in parts.items()}
    return {name: tensor.cpu() for name, tensor in found.items() if tensor is not None}


def from_tensors(tensors: Mapping[str, Tensor]) -> dict[PointId, RoundedWeight]:
    """What ``as_tensors`` was given.

    Raises:
        KeyError: a part is missing.
    """
    modules = dict.fromkeys(name.rpartition(".")[0] for name in tensors)
    return {
        PointId(module, "weight"): RoundedWeight(
            QParams(tensors[f"{module}.scale"], tensors[f"{module}.zero_point"]),
            Rounding(tensors.get(f"{module}.levels"), tensors.get(f"{module}.correction")),
        )
        for module in modules
    }
