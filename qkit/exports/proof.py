# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""An export loaded back, against the model that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from qkit.exports.formats import Backend, Loaded
from qkit.report.export import BackendProof, TowerProof

Encode = Callable[[Tensor], Tensor]
Features = Mapping[str, Tensor]
"""Features ``(N, dim)`` by tower."""

Inputs = Mapping[str, Sequence[Tensor]]
"""Batches by tower, of several sizes, so that an open batch size is tried, too."""

SIZES = (1, 16)  # of the first batch, and of the rest


def in_batches(samples: Tensor, cut: Encode | None = None) -> list[Tensor]:
    """A first sample alone, then the rest; each batch passed through ``cut``."""
    first, rest = SIZES
    parts = [samples[:first], *samples[first:].split(rest)]
    return [part if cut is None else cut(part) for part in parts if len(part)]


@torch.no_grad()
def run(encode: Encode, batches: Sequence[Tensor]) -> Tensor:
    """Features of all batches, ``(N, dim)`` float32."""
    return torch.cat([encode(batch).float() for batch in batches])


def compare(
    name: str,
    found: Features,
    reference: Features,
    products: Mapping[str, tuple[int, int]] | None = None,
) -> BackendProof:
    """How far features are off.

    Args:
        name: of what made them.
        found: by tower.
        reference: of the simulated model.
        products: by tower: run on int8 kernels, and of integers in the file.
    """
    proofs = []
    for tower, features in found.items():
        cosines = F.cosine_similarity(features.double(), reference[tower].double())
        difference = (features - reference[tower]).abs().max()
        counts = (None, None) if products is None else products[tower]
        numbers = (float(difference), float(cosines.mean()), float(cosines.min()))
        proofs.append(TowerProof(tower, *numbers, *counts))
    agreement = (_nearest(found) == _nearest(reference)).double().mean()
    return BackendProof(name, tuple(proofs), float(agreement))


def _nearest(features: Features) -> Tensor:
    """For each image the text that is nearest to it."""
    images, texts = (F.normalize(features[tower], dim=-1) for tower in ("image", "text"))
    return (images @ texts.T).argmax(1)


def prove(
    backend: Backend,
    loaded: Mapping[str, Loaded],
    written: Mapping[str, int],
    inputs: Inputs,
    reference: Features,
) -> BackendProof:
    """Run what was loaded back.

    Args:
        backend: that runs it.
        loaded: towers.
        written: products of integers in the files, by tower.
        inputs: batches.
        reference: features of the simulated model.
    """
    found = {name: run(tower, inputs[name]) for name, tower in loaded.items()}
    products = {name: (tower.integer_products, written[name]) for name, tower in loaded.items()}
    return compare(str(backend), found, reference, products)
