# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Pairs of bits that a layer may get, as the command line names them."""

from __future__ import annotations

from typing import NamedTuple, Self

from qkit.errors import RecipeError, SearchError
from qkit.spec import QuantSpec


class Bits(NamedTuple):
    """Bits of a layer's weight and of its input."""

    weight: int
    input: int

    def __str__(self) -> str:
        return f"{self.weight}/{self.input}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "4/8".

        Raises:
            SearchError: it is no pair of whole numbers from 2 to 8.
        """
        weight, _, input_ = text.strip().partition("/")
        try:
            found = cls(int(weight), int(input_))
            for bits in found:
                QuantSpec(bits)
        except (ValueError, RecipeError):
            message = (
                f"choice {text.strip()!r} is no pair of bits. Write weight/input, each a whole "
                "number from 2 to 8, e.g. --choices 4/8,8/8."
            )
            raise SearchError(message) from None
        return found


def parse_choices(text: str) -> tuple[Bits, ...]:
    """Read "4/4,4/8,8/8".

    Raises:
        SearchError: a pair is none, or is named twice.
    """
    found = tuple(Bits.parse(part) for part in text.split(","))
    twice = next((bits for i, bits in enumerate(found) if bits in found[:i]), None)
    if twice is not None:
        message = f"choice {twice} is named twice. Name each pair of --choices once."
        raise SearchError(message)
    return found
