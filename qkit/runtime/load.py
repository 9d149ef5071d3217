# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A run folder as a model that runs in integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from qkit.artifact.stored import check_filled, misfits, take_stored
from qkit.clip.blank import hold_places
from qkit.graph.layers import Layer
from qkit.runtime.convert import Fallback, convert
from qkit.runtime.kernels import Kernel


def fill_integers(
    model: nn.Module,
    layers: Sequence[Layer],
    tensors: Mapping[str, Tensor],
    kernel: Kernel,
) -> tuple[Fallback, ...]:
    """Fill a model without weights with stored tensors, ready to run in integers.

    Args:
        model: of ``clip.blank``, swapped, its points attached.
        layers: its layers.
        tensors: as ``artifact.tensors.to_tensors`` made them.
        kernel: what multiplies.

    Returns:
        the layers that compute in float, and why.

    Raises:
        ArtifactError: a tensor is missing, left over or of the wrong shape.
    """
    hold_places(model)
    stored = take_stored(model, layers, _kept(tensors))
    with misfits():
        missing, unexpected = model.load_state_dict(stored.floats, strict=False, assign=True)
        check_filled(model, [name for name in missing if name not in stored.packed], unexpected)
        return convert(model, layers, stored, kernel)


def _kept(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors, those that stay in use copied, so that none holds the whole file in memory."""
    return {name: t if name.endswith(".packed") else t.clone() for name, t in tensors.items()}
