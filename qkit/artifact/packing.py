# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Integers of 2 to 8 bits without a gap between them: a 4-bit weight takes 4 bits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

CHUNK = 1 << 20  # values at a time; a multiple of 8, so that every chunk ends on a byte


def pack(levels: Tensor, bits: int) -> Tensor:
    """Pack non-negative integers below ``2**bits`` into bytes, lowest bit first.

    The last byte is filled up with zeros. Works on any shape and stride; the order is row-major.

    Returns:
        uint8 ``(ceil(numel * bits / 8),)``.
    """
    flat = levels.contiguous().reshape(-1).to(torch.uint8).numpy()
    if bits == 8:
        return torch.from_numpy(flat.copy())
    chunks = [
        np.packbits(_to_bits(flat[i : i + CHUNK], bits), bitorder="little")
        for i in range(0, max(len(flat), 1), CHUNK)
    ]
    return torch.from_numpy(np.concatenate(chunks))


def unpack(packed: Tensor, bits: int, shape: tuple[int, ...]) -> Tensor:
    """Inverse of ``pack``: uint8 integers of ``shape``.

    Raises:
        ValueError: there are more bytes, or fewer.
    """
    count = int(np.prod(shape))
    if packed.numel() != packed_bytes(count, bits):
        message = f"{packed.numel()} bytes do not hold {count} integers of {bits} bits"
        raise ValueError(message)
    if bits == 8:
        return packed.reshape(shape)
    step = CHUNK * bits // 8
    raw = packed.numpy()
    chunks = [_from_bits(raw[i : i + step], bits) for i in range(0, max(len(raw), 1), step)]
    return torch.from_numpy(np.concatenate(chunks)[:count]).reshape(shape)


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that ``count`` packed integers take."""
    return -(-count * bits // 8)


def _to_bits(
    values: np.ndarray[tuple[int], np.dtype[np.uint8]], bits: int
) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    return np.unpackbits(values[:, None], axis=1, count=bits, bitorder="little")


def _from_bits(
    raw: np.ndarray[tuple[int], np.dtype[np.uint8]], bits: int
) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    if 8 % bits == 0:  # no value spans two bytes: many times as fast
        parts = [raw >> shift & ((1 << bits) - 1) for shift in range(0, 8, bits)]
        return np.stack(parts, axis=1).reshape(-1)
    stream = np.unpackbits(raw, bitorder="little")
    rows = stream[: len(stream) // bits * bits].reshape(-1, bits)
    return np.packbits(rows, axis=1, bitorder="little").reshape(-1)
