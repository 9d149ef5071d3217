# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Coordinates in which a tensor is easy to round.

An input x is rounded as z = ((x - shift) B1 * gain) B2 with orthogonal B1 and B2, a weight W that
reads it as V = (W B1 / gain) B2. Then W x = V z + W shift, exactly: nothing changes but what
rounding costs. To execute, z is made where x is made (shift and gain go into a LayerNorm's affine,
or into the step that quantizes), V z runs in integers, and W shift joins the bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from qkit.spec import QuantSpec


def kronecker(x: Tensor, factors: Sequence[Tensor], *, back: bool = False) -> Tensor:
    """``x`` ``(..., n)`` times the Kronecker product of ``factors``, or times its transpose.

    Each factor ``(k, k)`` is applied along its own axis, which costs the sum of their sizes a
    value and not their product.
    """
    if not factors:
        return x
    y, inner = x.reshape(-1, x.shape[-1]), 1
    for factor in reversed(factors):  # the last axis first: it lies as products like it
        matrix = factor.T if back else factor
        blocks = y.reshape(-1, len(factor), inner)
        # from the left, so that nothing is laid out anew
        y = blocks.squeeze(-1) @ matrix if inner == 1 else matrix.T @ blocks
        inner *= len(factor)
    return y.reshape(x.shape)


class Transform(nn.Module):
    """A change of coordinates of the last axis of an input.

    Attributes:
        shift: ``(n,)``, subtracted first; None for nothing.
        gain: ``(n,)``, each positive or negative, never 0; None for one.
        before: orthogonal factors of B1, whose sizes multiply to n; empty for none.
        after: the same of B2.
        clip: the part of a token's range that a dynamic scale spans; 1 leaves nothing out.
    """

    shift: Tensor | None
    gain: Tensor | None

    def __init__(
        self,
        shift: Tensor | None = None,
        gain: Tensor | None = None,
        before: Sequence[Tensor] = (),
        after: Sequence[Tensor] = (),
        clip: float = 1.0,
    ) -> None:
        super().__init__()
        self.clip = clip
        self._counts = {"before": len(before), "after": len(after)}
        parts = {"shift": shift, "gain": gain}
        parts |= {f"before_{i}": factor for i, factor in enumerate(before)}
        parts |= {f"after_{i}": factor for i, factor in enumerate(after)}
        for name, part in parts.items():  # one layout in memory, so that sums have one order
            laid = None if part is None else part.clone(memory_format=torch.contiguous_format)
            self.register_buffer(name, laid)

    def factors(self, side: str) -> list[Tensor]:
        """The factors of B1 ("before") or B2 ("after")."""
        return [self.get_buffer(f"{side}_{i}") for i in range(self._counts[side])]

    def into(self, x: Tensor) -> Tensor:
        """``(..., n)`` in these coordinates."""
        if self.shift is not None:
            x = x - self.shift
        x = kronecker(x, self.factors("before"))
        if self.gain is not None:
            x = x * self.gain
        return kronecker(x, self.factors("after"))

    def out_of(self, z: Tensor) -> Tensor:
        """What ``into`` made ``z`` of."""
        z = kronecker(z, self.factors("after"), back=True)
        if self.gain is not None:
            z = z / self.gain
        z = kronecker(z, self.factors("before"), back=True)
        return z if self.shift is None else z + self.shift

    def weight_into(self, weight: Tensor) -> Tensor:
        """A weight ``(out, ...)``, as rows, in the coordinates that meet these."""
        rows = kronecker(weight.flatten(1), self.factors("before"))
        if self.gain is not None:
            rows = rows / self.gain
        return kronecker(rows, self.factors("after"))

    def weight_out_of(self, rows: Tensor) -> Tensor:
        """The rows ``(out, n)`` that ``weight_into`` made ``rows`` of."""
        rows = kronecker(rows, self.factors("after"), back=True)
        if self.gain is not None:
            rows = rows * self.gain
        return kronecker(rows, self.factors("before"), back=True)

    def tensors(self) -> dict[str, Tensor]:
        """Everything it consists of, by name."""
        return {**self.state_dict(), "clip": torch.tensor(self.clip, dtype=torch.float64)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """What ``tensors`` were taken from.

        Raises:
            KeyError: the clip or a factor is missing.
        """
        before, after = (
            [tensors[f"{side}_{i}"] for i in range(sum(k.startswith(side) for k in tensors))]
            for side in ("before", "after")
        )
        clip = float(tensors["clip"])
        return cls(tensors.get("shift"), tensors.get("gain"), before, after, clip)

    def describe(self, spec: QuantSpec) -> str:
        """What it does, in a few words, to an input that ``spec`` rounds."""
        parts = {
            "centred": self.shift is not None,
            "frequencies": bool(self._counts["before"]),
            "scaled": self.gain is not None,
            "rotated": bool(self._counts["after"]),
            f"clipped {self.clip:g}": spec.dynamic and self.clip != 1.0,
        }
        return ", ".join(name for name, there in parts.items() if there) or "as it is"
