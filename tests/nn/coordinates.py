# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A change of coordinates with all its parts, and scales for what is seen in them."""

import torch

from qkit.numerics import qparams_from_range
from qkit.spec import Range
from qkit.transform import Transform


def some_transform(clip=1.0):
    """Of twelve channels, all its parts there."""
    gen = torch.Generator().manual_seed(3)
    turn = {n: torch.linalg.qr(torch.randn(n, n, generator=gen)).Q for n in (2, 3, 4, 6)}
    gain = torch.linspace(0.7, 1.4, 12) * torch.tensor([1, -1, -1]).repeat(4)
    shift = torch.randn(12, generator=gen)
    return Transform(shift, gain, (turn[3], turn[4]), (turn[6], turn[2]), clip)


def scales(values, spec, axis=None):
    rows = values.reshape(1, -1) if axis is None else values.movedim(axis, 0).flatten(1)
    low, high = rows.amin(1), rows.amax(1)
    return qparams_from_range(Range(low[0], high[0]) if axis is None else Range(low, high), spec)
