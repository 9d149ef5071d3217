# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A learned prompt, as a model carries it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from qkit.errors import DataError

Position = Literal["end", "middle", "front"]
"""Where the text stands: behind the context vectors, between their halves, or before them."""

POSITIONS: tuple[Position, ...] = get_args(Position)


@dataclass(frozen=True, slots=True, eq=False)
class LearnedPrompt:
    """Context vectors that stand beside a text instead of words.

    Attributes:
        context: ``(vectors, width)``, or ``(classes, vectors, width)`` where each class has its
            own.
        position: of the text among them.
        captions: learned on captions; else on class names. Other texts are encoded without it.
        classes: those it was learned on, in the order of their own vectors; empty for captions.
    """

    context: Tensor
    position: Position
    captions: bool
    classes: tuple[str, ...]

    @property
    def vectors(self) -> int:
        """How many."""
        return self.context.shape[-2]

    def context_of(self, texts: Sequence[str]) -> Tensor:
        """The vectors for some texts.

        Raises:
            DataError: each class has its own, and one of ``texts`` is none of them.
        """
        if self.context.ndim == 2:
            return self.context
        place = {name: row for row, name in enumerate(self.classes)}
        strange = next((text for text in texts if text not in place), None)
        if strange is not None:
            message = (
                f"class {strange!r} has no prompt: each of the {len(place)} classes it was learned "
                "on has its own. Evaluate on those, or learn a prompt that is shared."
            )
            raise DataError(message)
        return self.context[[place[text] for text in texts]]
