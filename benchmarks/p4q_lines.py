# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The lines of P4Q's table: what is quantized to what, and what is learned beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from p4q_bed import FLOAT

from qkit.p4q.config import PAPER_RATE, AdapterConfig, LossConfig, P4QConfig, PromptConfig

BITS = (FLOAT, "W4A4", "W8A8", "W4A8", "W6A6")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table.

    Attributes:
        bits: "float", or what the run was quantized to.
        what: what is learned beside it.
        config: None for nothing.
    """

    bits: str
    what: str
    config: P4QConfig | None

    @property
    def title(self) -> str:
        """What the table calls it."""
        return f"{self.bits} {self.what}"

    def key(self, options: Mapping[str, Any]) -> dict[str, str | int]:
        """Under what its results are kept; with "seed" those of one."""
        named = ("shots", "epochs") if self.config else ()
        named = named if self.bits == FLOAT else (*named, "kind")
        return {"line": self.title, **{name: options[name] for name in named}}


FULL = P4QConfig()
IN_COMPARISON = {
    "zero-shot": None,
    "prompt-tuned": replace(FULL, adapter=None),
    "prompt and adapter": replace(FULL, adapter=AdapterConfig(bits=None)),
}
TUNED = {
    "PTQ": None,
    "P4Q": FULL,
    "P4Q without prompt": replace(FULL, prompt=None),
    "P4Q without adapter": replace(FULL, adapter=None),
    "P4Q without distillation": replace(FULL, loss=LossConfig(distill=0.0)),
    "P4Q, adapter 4 bits": replace(FULL, adapter=AdapterConfig(bits=4)),
}
PAPERS_RATE = PromptConfig(rate=PAPER_RATE * FULL.batch_size)
BESIDE = (
    Line(FLOAT, "prompt-tuned, paper's step size", replace(FULL, adapter=None, prompt=PAPERS_RATE)),
    Line("W4A4", "P4Q, paper's step size", replace(FULL, prompt=PAPERS_RATE)),
    Line("W4A4", "P4Q, released loss", replace(FULL, loss=LossConfig(released=True))),
)
LINES = (
    *(Line(FLOAT, what, config) for what, config in IN_COMPARISON.items()),
    *(Line(bits, what, config) for bits in BITS[1:] for what, config in TUNED.items()),
    *BESIDE,
)
