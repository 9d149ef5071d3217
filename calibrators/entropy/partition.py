# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Cut a tower into blocks of layers that are searched together (Q-VLM, arXiv 2410.08119, Eq 7).

Pure functions: dependencies between neighbouring layers in, consecutive ranges of layers out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Blocks = tuple[range, ...]
"""Consecutive ranges of layer numbers that together cover 0 to n - 1."""


def grow(dependencies: Sequence[float], threshold: float, limit: int) -> Blocks:
    """Grow blocks from the first layer on while their average dependency exceeds ``threshold``.

    Eq 7 multiplies the threshold by the number of neighbouring pairs in the block, so the average
    is taken over these pairs.

    Args:
        dependencies: between layers k and k + 1, for n layers n - 1 of them.
        threshold: what the average within a block must exceed.
        limit: most layers in a block, at least 1 (the paper: 3).

    Raises:
        ValueError: ``limit`` is below 1.
    """
    if limit < 1:
        message = f"at most {limit} layers a block is not possible. Use 1 or more."
        raise ValueError(message)
    blocks, start = [], 0
    layers = len(dependencies) + 1
    while start < layers:
        stop = start + 1
        while stop < layers and stop - start < limit:
            pairs = dependencies[start:stop]
            if math.fsum(pairs) / len(pairs) <= threshold:
                break
            stop += 1
        blocks.append(range(start, stop))
        start = stop
    return tuple(blocks)


def threshold_of(dependencies: Sequence[float], rule: str | float) -> float:
    """The threshold that ``rule`` asks for: "mean", a value, or a quantile such as "q0.75".

    The paper gives no value (its h_0); the mean is ours.

    Raises:
        ValueError: the rule is none of these.
    """
    if not isinstance(rule, str) and not math.isnan(rule):
        return float(rule)
    known = dependencies or (0.0,)
    if rule == "mean":
        return math.fsum(known) / len(known)
    try:
        if isinstance(rule, str) and rule.startswith("q"):
            return float(np.quantile(np.asarray(known), float(rule[1:])))
    except ValueError:
        pass  # said below
    message = f"threshold = {rule!r}. Use 'mean', a number, or a quantile such as 'q0.75'."
    raise ValueError(message)


def fixed(layers: int, size: int) -> Blocks:
    """Blocks of ``size`` layers, whatever their dependency; the last may be shorter."""
    return tuple(range(i, min(i + size, layers)) for i in range(0, layers, size))


def shuffled(blocks: Blocks, seed: int) -> Blocks:
    """Blocks of the same sizes in random order: what a partition of no insight looks like."""
    sizes = np.random.default_rng(seed).permutation([len(block) for block in blocks])
    ends = np.cumsum(sizes)
    return tuple(range(int(e - s), int(e)) for s, e in zip(sizes, ends, strict=True))
