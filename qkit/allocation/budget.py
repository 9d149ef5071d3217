# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a model may cost: budgets as users write them, and amounts as people read them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qkit.errors import SearchError, choices, nearest

NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*")

KINDS: Mapping[str, Mapping[str, float]] = {
    "bits": {"": 1.0},
    "size": {
        "B": 1.0,
        "kB": 1e3,
        "MB": 1e6,
        "GB": 1e9,
        "KiB": 2.0**10,
        "MiB": 2.0**20,
        "GiB": 2.0**30,
    },
    "bitops": {"": 1.0, "M": 1e6, "G": 1e9, "T": 1e12},
    "latency": {"us": 1e-6, "ms": 1e-3, "s": 1.0},
}
"""Kinds of budget, with their units: "bits" is the mean over all weights searched, "size" bytes of
model.safetensors, "bitops" multiply-accumulates times weight bits times input bits, "latency"
seconds, of one image and one text."""

EXAMPLES = {"bits": "5", "size": "30MB", "bitops": "200G", "latency": "5ms"}
SHOWN = {"size": ("MB", 1e6), "bitops": ("G", 1e9), "latency": ("ms", 1e-3), "bits": ("", 1.0)}


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that a model may cost.

    Attributes:
        kind: one of ``KINDS``.
        most: in bits, bytes, bit operations or seconds.
    """

    kind: str
    most: float

    def __str__(self) -> str:
        return f"{self.kind}={show_amount(self.kind, self.most)}"


def parse_budget(text: str) -> Budget:
    """Read "bits=5", "size=30MB", "bitops=200G" or "latency=5ms".

    Raises:
        SearchError: the kind or the unit is unknown, or the amount is no positive number.
    """
    kind, _, amount = (part.strip() for part in text.partition("="))
    if kind not in KINDS:
        message = (
            f"unknown budget {text!r}.{nearest(kind, KINDS)} Write one of: "
            f"{choices(f'{name}={example}' for name, example in EXAMPLES.items())}."
        )
        raise SearchError(message)
    found, units = NUMBER.fullmatch(amount), KINDS[kind]
    by_case = {unit.lower(): factor for unit, factor in units.items()}
    if found is None or found[2].lower() not in by_case:
        named = [unit or "none" for unit in units]
        message = (
            f"budget {text!r} has no amount that can be read. Write {kind}={EXAMPLES[kind]}; "
            f"units: {choices(named)}."
        )
        raise SearchError(message)
    most = float(found[1]) * by_case[found[2].lower()]
    if not 0 < most < math.inf:
        message = f"budget {text!r} leaves nothing. Give an amount above 0."
        raise SearchError(message)
    return Budget(kind, most)


def parse_budgets(texts: Sequence[str]) -> tuple[Budget, ...]:
    """Read budgets that hold together; the first is the one that others are compared along.

    Raises:
        SearchError: see ``parse_budget``; there is none, or a kind is named twice.
    """
    found = tuple(parse_budget(text) for text in texts)
    kinds = [budget.kind for budget in found]
    if not found:
        message = "no budget is given. Name one, e.g. --budget bits=5."
        raise SearchError(message)
    for kind in kinds:
        if kinds.count(kind) > 1:
            message = f"budget {kind} is given {kinds.count(kind)} times. Give each kind once."
            raise SearchError(message)
    return found


def show_amount(kind: str, amount: float, digits: int = 6) -> str:
    """An amount with its unit, to so many digits that count: "5", "30MB", "2.5ms"."""
    unit, factor = SHOWN[kind]
    return f"{amount / factor:.{digits}g}{unit}"
