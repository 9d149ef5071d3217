# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""How much Q-VLM's public code takes a layer to matter, and what hangs on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

ALWAYS = 3  # one block out of so many has its gate open


class Proxies:
    """How much layers are taken to matter, in the running order of one forward.

    Attributes:
        sizes: layers in each block, by its number.
        values: the proxies so far.
    """

    def __init__(self, sizes: Mapping[int, int]) -> None:
        self.sizes = sizes
        self.values: list[float] = []
        self._arrived: Counter[int] = Counter()
        self._before = torch.empty(0)

    def open(self, block: int, *, seen: bool) -> bool:
        """Whether the sample may widen the range of the layer that is next in ``block``."""
        return gate(self.values, block, self._arrived[block] + 1, seen=seen)

    def add(self, block: int, rounded: Tensor) -> None:
        """Take in a layer's rounded input ``(N, tokens, channels)``.

        Layers of unlike width inside a block do not occur in that code; they count as its ends do.
        """
        self._arrived[block] += 1
        at_end = self._arrived[block] in (1, self.sizes[block])
        if at_end or rounded.shape != self._before.shape:
            self.values.append(entropy(rounded))
        else:
            self.values.append(ded(self._before, rounded))
        self._before = rounded


def gate(proxies: Sequence[float], block: int, place: int, *, seen: bool) -> bool:
    """Whether a sample may widen the range of a layer; if not, the old range stays.

    Args:
        proxies: of the layers before it, in this forward.
        block: number of its block, from 1.
        place: of the layer in its block, from 1.
        seen: whether the layer has a range yet.
    """
    if not seen or block % ALWAYS == 1 or (block, place) == (1, 1) or not proxies:
        return True
    return proxies[-1] >= sum(proxies) / len(proxies)


def entropy(x: Tensor) -> float:
    """The proxy at a block's ends: no entropy, for what sums to 1 over tokens is the squares."""
    a = F.normalize(x.abs(), p=2, dim=1)
    return -float((a * (a + 1e-7).log()).sum(dim=1).mean())


def ded(before: Tensor, after: Tensor) -> float:
    """The proxy in between, of two inputs ``(N, tokens, channels)``."""
    first, second = (F.normalize(x.abs(), p=1, dim=1) for x in (before, after))
    joint = F.normalize(first * second, p=1, dim=1)
    given = F.normalize(second / (first + 1e-5), p=1, dim=1)
    return -float((joint * (given + 1e-5).log()).sum(dim=1).mean())
