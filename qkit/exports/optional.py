# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Packages that only an export needs, and what torch's exporters say of themselves."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from qkit.errors import ExportError


def require(package: str, purpose: str) -> ModuleType:
    """Import an optional package.

    Args:
        package: as it is imported.
        purpose: what needs it, for the message.

    Raises:
        ExportError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        message = (
            f"{purpose} needs the package {package!r}, which cannot be imported ({error}). "
            "Run: pip install 'qkit-clip[export]'"
        )
        raise ExportError(message) from error


def installed(package: str) -> bool:
    """Whether an optional package is there; it is not imported."""
    return importlib.util.find_spec(package) is not None


@contextmanager
def torchs_own_warnings() -> Iterator[None]:
    """Leave out what torch deprecates and then uses itself: no user can mend that."""
    with warnings.catch_warnings():
        for kind in (FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", kind)
        yield
