# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Where learned context vectors stand among the tokens of a text (CoOp, arXiv 2109.01134)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from qkit.clip.model import ClipModel
from qkit.clip.prompt import Position
from qkit.errors import DataError

FULL_STOP = "."


@dataclass(frozen=True, slots=True)
class PromptLayout:
    """Texts as token numbers with room for context vectors.

    Attributes:
        tokens: ``(texts, context)``; an ordinary token where a context vector is to stand.
        slots: ``(texts, vectors)``, the column of each context vector.
    """

    tokens: Tensor
    slots: Tensor

    def rows(self, index: Tensor | slice) -> PromptLayout:
        """Some of the texts."""
        return PromptLayout(self.tokens[index], self.slots[index])


class _Frame(NamedTuple):
    """What a tokenizer puts around a text: what it starts with, and its end with the padding."""

    head: Tensor
    tail: Tensor

    def around(self, body: Tensor) -> Tensor:
        """A whole row of token numbers ``(context,)``."""
        return torch.cat([self.head, body, self.tail[: len(self.tail) - len(body)]])


def lay_out(
    clip: ClipModel, texts: Sequence[str], vectors: int, position: Position, *, captions: bool
) -> PromptLayout:
    """Token numbers of ``[start][vectors][text][.][end]``, the text where ``position`` says.

    Works with any tokenizer that treats texts alike: what it puts around them is read off an empty
    text.

    Args:
        clip: whose tokenizer.
        texts: class names, or captions.
        vectors: number of context vectors.
        position: of the text among them.
        captions: texts end as they are, without a full stop, and are cut where they are too long.

    Raises:
        DataError: a class name does not fit into the context.
    """
    frame = _frame(clip)
    stop = _pieces(clip, [FULL_STOP], frame)[0]
    room = len(frame.tail) - 1  # of the tail, at least the end of the text
    rows, slots = [], []
    for text, name in zip(texts, _pieces(clip, texts, frame), strict=True):
        behind = stop[:0] if captions else stop
        fitting = name[: max(0, room - vectors)] if captions else name
        if vectors + len(fitting) + len(behind) > room:
            raise DataError(_too_long(text, len(fitting) + len(behind), vectors, room))
        at = _place(len(fitting), vectors, position)
        rows.append(frame.around(_body(fitting, behind, at, filler=stop[:1])))
        slots.append(at + len(frame.head))
    return PromptLayout(torch.stack(rows), torch.stack(slots))


def _body(name: Tensor, behind: Tensor, at: Tensor, filler: Tensor) -> Tensor:
    """A text's tokens with ``filler`` at the places of the vectors."""
    words = torch.cat([name, behind])
    body = filler.repeat(len(words) + len(at))
    free = torch.ones(len(body), dtype=torch.bool)
    free[at] = False
    body[free] = words
    return body


def phrase_tokens(clip: ClipModel, phrase: str) -> Tensor:
    """Token numbers of a phrase alone, ``(tokens,)``.

    Raises:
        DataError: it has none.
    """
    tokens = _pieces(clip, [phrase], _frame(clip))[0]
    if not len(tokens):
        message = f"phrase {phrase!r} has no words. Write some, e.g. 'a photo of a'."
        raise DataError(message)
    return tokens


def _place(length: int, vectors: int, position: Position) -> Tensor:
    """Places of the vectors around a text of ``length`` tokens, counted from the text's start."""
    before = {"end": vectors, "middle": vectors // 2, "front": 0}[position]
    places = torch.arange(vectors)
    return torch.where(places < before, places, places + length)


def _frame(clip: ClipModel) -> _Frame:
    empty, dot = clip.tokenizer(["", FULL_STOP])
    start = int((empty == dot).int().cumprod(0).sum())
    return _Frame(empty[:start], empty[start:])


def _pieces(clip: ClipModel, texts: Sequence[str], frame: _Frame) -> list[Tensor]:
    """The tokens of texts without what stands around them; a text that was cut ends early."""
    bodies = clip.tokenizer(list(texts))[:, len(frame.head) :]
    return [body[: _length(body, frame.tail)] for body in bodies]


def _length(body: Tensor, tail: Tensor) -> int:
    """How many tokens come before the end and the padding."""
    total = len(body)
    return next(n for n in range(total + 1) if torch.equal(body[n:], tail[: total - n]))


def _too_long(text: str, length: int, vectors: int, room: int) -> str:
    most = room - length
    remedy = f"Use --context {most} or less, or a shorter name" if most > 0 else "Shorten the name"
    return (
        f"class {text!r} does not fit: its name takes {length} tokens with the full stop and "
        f"{vectors} are learned, but the text tower has room for {room}. {remedy}."
    )
