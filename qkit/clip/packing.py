# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Many texts with a common beginning as few sequences, for causal text towers.

In a causal tower a token sees only what comes before it, so the columns that all texts have in
common give the same in each: they run once, followed by what each text has of its own. A mask keeps
the texts apart, each position counts from its own text's start, and the features are those of the
texts run one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qkit.clip.prompt_layout import PromptLayout
from qkit.clip.text import project

COLUMNS = 128  # of a sequence: longer ones spend their time on masked pairs
AT_ONCE = 8  # sequences of a batch


class Pack(NamedTuple):
    """Some texts as one sequence of ``L`` columns, or as ``N`` of them side by side.

    Of sequences side by side the shorter ones are filled up with columns that nobody reads, and
    ``filled`` and ``ends`` count through all of them.

    tokens: ``(..., L)`` token numbers. positions: ``(..., L)``, counted from each text's start.
    mask: ``(..., L, L)``, added to attention's scores. filled: columns of context vectors. vectors:
    which of the flattened context vectors stand there. ends: where each text ends, ``(texts,)``.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    filled: Tensor
    vectors: Tensor
    ends: Tensor


def pack(layout: PromptLayout, ends: Tensor, *, shared: bool) -> tuple[Pack, ...]:
    """Lay texts out as sequences.

    Args:
        layout: the texts.
        ends: column in which each ends, ``(texts,)``.
        shared: all texts have the same context vectors.
    """
    codes = _codes(layout, shared=shared)
    same = int((codes == codes[:1]).all(dim=0).int().cumprod(0).sum())
    common = min(same, int(ends.min()))
    return tuple(
        _pack_some(layout, codes, ends, common, rows) for rows in _groups(ends - common + 1, common)
    )


def batches(packs: tuple[Pack, ...]) -> tuple[Pack, ...]:
    """The same sequences, some at once."""
    return tuple(_stack(packs[i : i + AT_ONCE]) for i in range(0, len(packs), AT_ONCE))


def run_packed(tower: Any, packed: tuple[Pack, ...], context: Tensor) -> Tensor:
    """Features ``(texts, dim)`` of packed texts with context vectors ``(..., vectors, width)``."""
    flat = context.flatten(0, -2)
    return torch.cat([_run(tower, one, flat) for one in packed])


def _run(tower: Any, batch: Pack, vectors: Tensor) -> Tensor:
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(batch.tokens).clone()
    x.flatten(0, 1)[batch.filled] = vectors[batch.vectors].to(x.dtype)
    x = x.to(dtype) + tower.positional_embedding[batch.positions].to(dtype)
    mask = batch.mask.repeat_interleave(tower.transformer.resblocks[0].attn.num_heads, dim=0)
    x = tower.transformer(x, attn_mask=mask)
    return project(tower, tower.ln_final(x).flatten(0, 1)[batch.ends])


def _stack(packs: tuple[Pack, ...]) -> Pack:
    length = max(len(one.tokens) for one in packs)
    masks = []
    for one in packs:
        alone = torch.full((length, length), float("-inf"), device=one.mask.device)
        alone.fill_diagonal_(0.0)  # a column that sees nothing at all would be no number
        alone[: len(one.tokens), : len(one.tokens)] = one.mask
        masks.append(alone)
    return Pack(
        torch.stack([_filled_up(one.tokens, length) for one in packs]),
        torch.stack([_filled_up(one.positions, length) for one in packs]),
        torch.stack(masks),
        torch.cat([one.filled + row * length for row, one in enumerate(packs)]),
        torch.cat([one.vectors for one in packs]),
        torch.cat([one.ends + row * length for row, one in enumerate(packs)]),
    )


def _filled_up(numbers: Tensor, length: int) -> Tensor:
    return torch.cat([numbers, numbers.new_zeros(length - len(numbers))])


def _codes(layout: PromptLayout, *, shared: bool) -> Tensor:
    """One number a column, the same for the same content; those of vectors are negative."""
    texts, vectors = layout.slots.shape
    numbers = torch.arange(vectors, device=layout.slots.device).expand(texts, -1)
    if not shared:
        numbers = numbers + vectors * torch.arange(texts, device=numbers.device)[:, None]
    return layout.tokens.scatter(1, layout.slots, -1 - numbers)


def _groups(own: Tensor, common: int) -> Iterator[Tensor]:
    """Texts that go into one sequence: as many as fit, at least one; sequences of like length."""
    total, longest = int(own.sum()), int(own.max())
    count = max(1, -(-total // max(1, COLUMNS - common)))
    most = min(COLUMNS, common + total // count + longest)
    start, used = 0, common
    for row, columns in enumerate(own.tolist()):
        if row > start and used + columns > most:
            yield torch.arange(start, row)
            start, used = row, common
        used += columns
    yield torch.arange(start, len(own))


def _pack_some(
    layout: PromptLayout, codes: Tensor, ends: Tensor, common: int, rows: Tensor
) -> Pack:
    """One sequence: the common columns of its first text, then each text's own."""
    device = codes.device
    first = int(rows[0])
    spans = [(first, 0, common), *((int(row), common, int(ends[row]) + 1) for row in rows)]
    row = torch.cat([torch.full((b - a,), r) for r, a, b in spans]).to(device)
    owner = torch.cat([torch.full((b - a,), i) for i, (_, a, b) in enumerate(spans)]).to(device)
    column = torch.cat([torch.arange(a, b) for _, a, b in spans]).to(device)
    seen = (owner[None, :] == 0) | (owner[None, :] == owner[:, None])
    hidden = ~(seen & (column[None, :] <= column[:, None]))
    mask = torch.zeros(len(row), len(row), device=device).masked_fill(hidden, float("-inf"))
    content = codes[row, column]
    filled = (content < 0).nonzero()[:, 0]
    lengths = torch.tensor([b - a for _, a, b in spans], device=device)
    last = lengths.cumsum(0)[1:] - 1
    return Pack(layout.tokens[row, column], column, mask, filled, -1 - content[filled], last)
