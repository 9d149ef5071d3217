# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What can go wrong, said to the user in one line: the fact, the value, the remedy."""

import difflib
from collections.abc import Iterable


class QkitError(Exception):
    """Base of every error that a user can cause and mend; the command line prints its text only."""


class RecipeError(QkitError):
    """A recipe, or a flag that overrides it, asks for something that cannot be."""


class RegistryError(QkitError):
    """A plug-in is unknown, clashes with another or cannot be imported."""


class CalibrationError(QkitError):
    """Statistics or the scales chosen from them are unusable."""


class ModelError(QkitError):
    """A model cannot be found, loaded or quantized."""


class DataError(QkitError):
    """Images, captions or class names are missing or unreadable."""


class ArtifactError(QkitError):
    """A run folder cannot be written, or is damaged or from another format version."""


class SearchError(QkitError):
    """A search for mixed precision asks for something unknown, or for less than is possible."""


class TrainingError(QkitError):
    """A fine-tuning asks for something impossible, or its loss is no number any more."""


class ExportError(QkitError):
    """An export asks for something impossible, lacks a package, or is not what it was made from."""


class QkitWarning(UserWarning):
    """Something that is allowed but probably not meant."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the known name closest to ``name``, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def choices(known: Iterable[str]) -> str:
    """Return the known names as one comma-separated string, or "(none)"."""
    return ", ".join(known) or "(none)"
