# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The names of what a scale may span and of how the values of a grid may be spaced."""

from __future__ import annotations

from enum import StrEnum

from qkit.errors import RecipeError, choices, nearest


class Granularity(StrEnum):
    """Extent of one scale.

    TENSOR: scale ``()``, one for the whole tensor, fixed by calibration.
    CHANNEL: scale ``(channels,)``, fixed by calibration.
    TOKEN: scale ``(..., 1)``, taken from each token's own range at run time (dynamic).
    """

    TENSOR = "tensor"
    CHANNEL = "channel"
    TOKEN = "token"

    @classmethod
    def parse(cls, name: str) -> Granularity:
        """Read a granularity by name.

        Raises:
            RecipeError: the name is unknown.
        """
        try:
            return cls(name)
        except ValueError:
            known = [member.value for member in cls]
            message = (
                f"unknown granularity {name!r}.{nearest(name, known)} Known: {choices(known)}."
            )
            raise RecipeError(message) from None


class GridKind(StrEnum):
    """How the values of the codes are spaced; ``qkit.grids`` has the formulas.

    UNIFORM: evenly.
    LOG2, LOG_SQRT2: one or two to an octave, and zero; for softmax probabilities.
    LOG: the same with as many to an octave as fit best.
    TWIN: finely near zero, coarsely up to the largest; for softmax probabilities.
    TWIN_SIGNED: finely below zero, coarsely above; for what a GELU puts out.
    SHIFTED_LOG: those of LOG, moved down to the least value of a GELU; for the same.
    NORMAL: as densely as a normal distribution wants; for what was mixed by a rotation, inputs
        with a scale a token and weights.
    """

    UNIFORM = "uniform"
    LOG2 = "log2"
    LOG_SQRT2 = "log-sqrt2"
    LOG = "log"
    TWIN = "twin"
    TWIN_SIGNED = "twin-signed"
    SHIFTED_LOG = "shifted-log"
    NORMAL = "normal"
