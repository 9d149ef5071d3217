# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a search for mixed precision found: losses, the best for each budget, who got what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class UnitReport:
    """Layers that share their bits.

    Attributes:
        name: of the layer, or a glob for several that read one input.
        part: the same without the path to its block.
        tower: "image" or "text".
        block: index of its transformer block; None outside of them.
        kind: what its layers compute.
        weights: quantized weight values.
        macs: multiply-accumulates of one image or one text.
        loss: KL with only this unit quantized, in nats, by choice ("4/8": weight/input bits).
        bits: the choice it got.
        sees_input: whether it rounds its input at all.
    """

    name: str
    part: str
    tower: str
    block: int | None
    kind: str
    weights: int
    macs: int
    loss: Mapping[str, float]
    bits: str
    sees_input: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One way to give out bits.

    Attributes:
        name: the budget it is the best for, the choice that all layers got, or "the run".
        costs: what it costs, by kind of budget: "bits" mean bits of a weight, "size" bytes stored,
            "bitops" bit operations and "latency" seconds of one image and one text.
        predicted: sum of the units' losses, nats; None where they are not known.
        measured: KL with all of it quantized together, attention's operands included, nats.
        asked: whether it is the one that was asked for.
    """

    name: str
    costs: Mapping[str, float]
    predicted: float | None
    measured: float
    asked: bool = False


@dataclass(frozen=True, slots=True)
class SearchReport:
    """A search and what it found.

    Attributes:
        budgets: what was asked for, "bits=5".
        choices: pairs of weight/input bits that were tried.
        model: the float model.
        data: source of the pairs.
        pairs: images, and texts, that losses were measured on.
        front: the best assignment for each of some budgets, the cheapest first.
        uniform: all layers alike, one row a choice.
        run: the run that the search started from.
        units: layers that share their bits, and what they got.
    """

    budgets: tuple[str, ...]
    choices: tuple[str, ...]
    model: str
    data: str
    pairs: int
    front: tuple[Row, ...]
    uniform: tuple[Row, ...]
    run: Row
    units: tuple[UnitReport, ...]

    @property
    def asked(self) -> Row:
        """The row of the budget asked for."""
        return next(row for row in self.front if row.asked)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``qkit search --json`` prints it."""
        return asdict(self)
