# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a report says after an analysis that was asked for; empty until then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qkit.report.space import Space


@dataclass(frozen=True, slots=True)
class LayerSensitivity:
    """What one layer costs the embeddings, the rest being float or the rest being quantized.

    Attributes:
        name: path in the swapped model.
        alone: this layer quantized, all others float; against the float model.
        spared: this layer float, all others quantized; against the float model.
    """

    name: str
    alone: Space
    spared: Space


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """One layer at a time.

    Attributes:
        data: source of the pairs.
        digest: of these data, so that a stored result is known to be of them.
        pairs: images, and texts, that it was measured on.
        whole: all layers quantized.
        layers: one entry per layer measured so far, in module order.
    """

    data: str
    digest: str
    pairs: int
    whole: Space
    layers: tuple[LayerSensitivity, ...]


@dataclass(frozen=True, slots=True)
class Parts:
    """One part of the quantization at a time, the rest float.

    Attributes:
        data: source of the pairs.
        digest: of these data.
        pairs: images, and texts, that it was measured on.
        spaces: "all", "weights", "activations" (layer inputs and attention operands), "layer
            inputs", "attention operands", "image tower", "text tower"; against the float model.
    """

    data: str
    digest: str
    pairs: int
    spaces: Mapping[str, Space]


@dataclass(frozen=True, slots=True)
class Analyses:
    """Results of ``qkit report --sensitivity``, ``--parts`` and ``--space``.

    Attributes:
        sensitivity: one layer at a time; None until asked for.
        parts: weights only, activations only and so on; None until asked for.
        spaces: the whole quantized model by data source.
    """

    sensitivity: Sensitivity | None = None
    parts: Parts | None = None
    spaces: Mapping[str, Space] = field(default_factory=dict)
