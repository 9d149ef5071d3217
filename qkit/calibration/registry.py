# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Plug-ins by name, found through entry points: ours and third parties' on the same footing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from qkit.calibration.protocol import Calibrator
from qkit.errors import RegistryError, choices, nearest


@dataclasses.dataclass(frozen=True, slots=True)
class CalibratorInfo:
    """A plug-in that can be named, known without importing it.

    Attributes:
        name: as ``--method``, or the recipe, takes it.
        target: "module:Class".
        distribution: what it was installed with.
    """

    name: str
    target: str
    distribution: str


@dataclasses.dataclass(frozen=True, slots=True)
class Registry:
    """All plug-ins of one kind.

    Attributes:
        group: of entry points.
        noun: what an error calls one by its name.
        kind: what an error calls one that is none.
        call: what each must be able to do.
    """

    group: str
    noun: str
    kind: str
    call: str

    def list(self) -> tuple[CalibratorInfo, ...]:
        """All that are installed, by name; none is imported.

        Raises:
            RegistryError: two distributions offer one name.
        """
        return tuple(_info(entry) for _, entry in sorted(self._entries().items()))

    def load(self, name: str) -> type[Any]:
        """Import the plug-in called ``name``.

        Raises:
            RegistryError: the name is unknown, or the plug-in cannot be imported or is of no use.
        """
        known = self._entries()
        if name not in known:
            message = (
                f"unknown {self.noun} {name!r}.{nearest(name, known)} "
                f"Known: {choices(sorted(known))}."
            )
            raise RegistryError(message)
        info = _info(known[name])
        try:
            loaded: Any = known[name].load()
        except Exception as error:  # a plug-in's module may raise anything
            message = (
                f"{self.noun} {name!r} of {info.distribution} cannot be imported from "
                f"{info.target}: {error}. Reinstall or uninstall {info.distribution}."
            )
            raise RegistryError(message) from error
        if not isinstance(loaded, type) or not callable(getattr(loaded, self.call, None)):
            message = (
                f"{self.noun} {name!r} of {info.distribution} is no {self.kind}: {info.target} has "
                f"no {self.call}(). Report it to the authors of {info.distribution}."
            )
            raise RegistryError(message)
        return loaded

    def create(self, name: str, options: Mapping[str, Any]) -> Any:
        """Make the plug-in called ``name`` with ``options``.

        Raises:
            RegistryError: the name or an option is unknown, or an option's value is refused.
        """
        cls = self.load(name)
        fields = option_names(cls)
        for key in options:
            if key not in fields:
                hint = nearest(key, fields)
                message = (
                    f"{self.noun} {name!r} has no option {key!r}.{hint} It has: {choices(fields)}."
                )
                raise RegistryError(message)
        try:
            return cls(**options)
        except (TypeError, ValueError) as error:
            message = f"{self.noun} {name!r} refuses its options: {error}"
            raise RegistryError(message) from error

    def _entries(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for entry in entry_points(group=self.group):
            other = found.setdefault(entry.name, entry)
            if other.value != entry.value:
                message = (
                    f"{self.noun} {entry.name!r} is offered by {_info(other).distribution} and "
                    f"{_info(entry).distribution}. Uninstall one of them."
                )
                raise RegistryError(message)
        return found


CALIBRATORS = Registry("qkit.calibrators", "method", "calibrator", "calibrate")
TRANSFORMS = Registry("qkit.transforms", "transform", "transform", "choose")
ROUNDINGS = Registry("qkit.roundings", "rounding", "rounding", "round")
RECONSTRUCTIONS = Registry(
    "qkit.reconstructions", "reconstruction", "reconstruction", "reconstruct"
)


def list_calibrators() -> tuple[CalibratorInfo, ...]:
    """All installed calibrators by name; none is imported.

    Raises:
        RegistryError: two distributions offer one name.
    """
    return CALIBRATORS.list()


def calibrator_class(name: str) -> type[Calibrator]:
    """Import the calibrator called ``name``.

    Raises:
        RegistryError: the name is unknown, or the plug-in cannot be imported or is no calibrator.
    """
    return CALIBRATORS.load(name)


def create_calibrator(name: str, options: Mapping[str, Any]) -> Calibrator:
    """Make the calibrator called ``name`` with ``options``.

    Raises:
        RegistryError: the name or an option is unknown, or an option's value is refused.
    """
    made: Calibrator = CALIBRATORS.create(name, options)
    return made


def option_names(cls: type[Any]) -> tuple[str, ...]:
    """Names of the options of a plug-in: the fields of its dataclass."""
    if not dataclasses.is_dataclass(cls):
        return ()
    return tuple(field.name for field in dataclasses.fields(cls) if field.init)


def _info(entry: EntryPoint) -> CalibratorInfo:
    distribution = entry.dist.name if entry.dist else "unknown"
    return CalibratorInfo(entry.name, entry.value, distribution)
