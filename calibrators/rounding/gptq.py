# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""GPTQ as a recipe names it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from calibrators.rounding.layerwise import Layerwise
from calibrators.rounding.solver import solve
from qkit.spec import QParams, QuantSpec


@dataclass(frozen=True)
class Gptq(Layerwise):
    """Weights rounded column by column, each error made good by the next (GPTQ)."""

    def choose(self, weight: Tensor, moment: Tensor, q: QParams, spec: QuantSpec) -> Tensor:
        """See ``Layerwise.choose``."""
        return solve(weight, moment, q, spec)
