# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Orthogonal matrices that are cheap to apply: Hadamard ones, and principal axes of patches."""

from __future__ import annotations

import torch
from scipy.linalg import hadamard
from torch import Tensor

PALEY = {3: 11, 5: 19}  # orders 12 and 20, by the prime one below them


def hadamard_factors(size: int) -> tuple[Tensor, ...] | None:
    """Two factors of an orthogonal Hadamard matrix of order ``size``, all of one magnitude.

    They are of about equal size, which is cheapest: more of them would be many tiny products.

    None where this module knows of none: ``size`` must be 2^k, 12 * 2^k or 20 * 2^k.
    """
    power = size & -size
    odd = size // power
    if odd == 1:
        return _powers(size)
    if odd not in PALEY or power < 4:
        return None
    core, rest = paley(PALEY[odd]), power // 4
    grown = 1
    while 4 * len(core) * grown * grown <= rest:
        grown *= 2
    return tuple(
        f for f in (torch.kron(core, _sylvester(grown)), _sylvester(rest // grown)) if len(f) > 1
    )


def _powers(size: int) -> tuple[Tensor, ...]:
    """Two factors of about equal size, whose product is ``size``, a power of two."""
    log = size.bit_length() - 1
    return tuple(_sylvester(1 << half) for half in (log // 2, log - log // 2) if half)


def _sylvester(size: int) -> Tensor:
    """The orthogonal Hadamard matrix of order ``size``, a power of two."""
    matrix: Tensor = torch.from_numpy(hadamard(size)).float() / size**0.5
    return matrix


def paley(prime: int) -> Tensor:
    """The orthogonal Hadamard matrix of order ``prime + 1`` (Paley 1933, construction I).

    ``prime`` is one of those that leave 3 when divided by 4.
    """
    squares = {i * i % prime for i in range(1, prime)}
    signs = [0, *(1 if i in squares else -1 for i in range(1, prime))]
    jacobsthal = [[signs[(i - j) % prime] for j in range(prime)] for i in range(prime)]
    skew = torch.zeros(prime + 1, prime + 1)
    skew[0, 1:], skew[1:, 0] = 1, -1
    skew[1:, 1:] = torch.tensor(jacobsthal)
    matrix: Tensor = (skew + torch.eye(prime + 1)) / (prime + 1) ** 0.5
    return matrix


def principal_axes(patches: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Principal axes of colour, rows and columns: a cosine transform made for these patches.

    Args:
        patches: ``(n, C * kh * kw)``.
        shape: (C, kh, kw).

    Returns:
        one orthogonal ``(k, k)`` a dimension, its columns in falling order of variance.
    """
    blocks = patches.unflatten(-1, shape)
    found = []
    for axis in range(len(shape)):
        rows = blocks.movedim(axis + 1, -1).flatten(0, -2)
        vectors = torch.linalg.eigh((rows.T @ rows).double()).eigenvectors
        found.append(vectors.flip(1).to(patches.dtype))
    return tuple(found)
