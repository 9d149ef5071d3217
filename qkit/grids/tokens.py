# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Grids whose scale every token sets for itself."""

from __future__ import annotations

from torch import Tensor

from qkit.grids.normal import LARGEST, ScaledCodebook, scaled_codebook
from qkit.numerics import EPS, Grid, make_grid, token_qparams
from qkit.spec import GridKind, QuantSpec


def token_grid(z: Tensor, spec: QuantSpec, clip: float) -> Grid | ScaledCodebook:
    """The grid that rounds ``z`` ``(..., features)`` with a scale a token.

    Args:
        z: what is to be rounded.
        spec: per token.
        clip: the part of a token's range that the grid spans; of a normal grid, which has no zero
            point, of its largest magnitude.
    """
    if spec.grid is not GridKind.NORMAL:
        return make_grid(token_qparams(z, spec, clip), spec)
    step = (z.detach().abs().amax(-1, keepdim=True) * (clip / LARGEST)).clamp(min=EPS)
    return scaled_codebook(step, spec.bits)
