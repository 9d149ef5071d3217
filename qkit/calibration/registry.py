# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Calibrators by name, found through entry points: ours and third parties' on the same footing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from qkit.calibration.protocol import Calibrator
from qkit.errors import RegistryError, choices, nearest

GROUP = "qkit.calibrators"


@dataclasses.dataclass(frozen=True, slots=True)
class CalibratorInfo:
    """A calibrator that can be named, known without importing it.

    Attributes:
        name: as ``--method`` takes it.
        target: "module:Class".
        distribution: what it was installed with.
    """

    name: str
    target: str
    distribution: str


def list_calibrators() -> tuple[CalibratorInfo, ...]:
    """All installed calibrators by name; none is imported.

    Raises:
        RegistryError: two distributions offer one name.
    """
    return tuple(_info(entry) for _, entry in sorted(_entries().items()))


def calibrator_class(name: str) -> type[Calibrator]:
    """Import the calibrator called ``name``.

    Raises:
        RegistryError: the name is unknown, or the plug-in cannot be imported or is no calibrator.
    """
    known = _entries()
    if name not in known:
        message = f"unknown method {name!r}.{nearest(name, known)} Known: {choices(sorted(known))}."
        raise RegistryError(message)
    info = _info(known[name])
    try:
        loaded: Any = known[name].load()
    except Exception as error:  # a plug-in's module may raise anything
        message = (
            f"method {name!r} of {info.distribution} cannot be imported from {info.target}: "
            f"{error}. Reinstall or uninstall {info.distribution}."
        )
        raise RegistryError(message) from error
    if not isinstance(loaded, type) or not callable(getattr(loaded, "calibrate", None)):
        message = (
            f"method {name!r} of {info.distribution} is no calibrator: {info.target} has no "
            f"calibrate(). Report it to the authors of {info.distribution}."
        )
        raise RegistryError(message)
    return loaded


def create_calibrator(name: str, options: Mapping[str, Any]) -> Calibrator:
    """Make the calibrator called ``name`` with ``options``.

    Raises:
        RegistryError: the name or an option is unknown, or an option's value is refused.
    """
    cls = calibrator_class(name)
    fields = option_names(cls)
    for key in options:
        if key not in fields:
            hint = nearest(key, fields)
            message = f"method {name!r} has no option {key!r}.{hint} It has: {choices(fields)}."
            raise RegistryError(message)
    try:
        return cls(**options)
    except (TypeError, ValueError) as error:
        message = f"method {name!r} refuses its options: {error}"
        raise RegistryError(message) from error


def option_names(cls: type[Any]) -> tuple[str, ...]:
    """Names of the options of a calibrator: the fields of its dataclass."""
    if not dataclasses.is_dataclass(cls):
        return ()
    return tuple(field.name for field in dataclasses.fields(cls) if field.init)


def _entries() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            message = (
                f"method {entry.name!r} is offered by {_info(other).distribution} and "
                f"{_info(entry).distribution}. Uninstall one of them."
            )
            raise RegistryError(message)
    return found


def _info(entry: EntryPoint) -> CalibratorInfo:
    distribution = entry.dist.name if entry.dist else "unknown"
    return CalibratorInfo(entry.name, entry.value, distribution)
