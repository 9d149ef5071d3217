# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""One layer at a time: what quantizing it alone costs, and what leaving it in float saves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qkit.pipeline.probe import Prober
from qkit.progress import Progress
from qkit.report.analyses import LayerSensitivity

KEPT_EVERY = 8  # layers; a whole report is written each time

Keep = Callable[[tuple[LayerSensitivity, ...]], None]


def measure_layers(
    prober: Prober, known: Sequence[LayerSensitivity], keep: Keep, progress: Progress
) -> None:
    """Measure the layers that are not known yet.

    Args:
        prober: float and quantized embeddings.
        known: layers measured before.
        keep: given all that is known, in module order: every few layers, and whatever ends it.
        progress: who shows how far it is.
    """
    layers = prober.student.layers
    found = {entry.name: entry for entry in known}
    left = [layer for layer in layers if layer.name not in found]

    def keep_all() -> None:
        keep(tuple(found[layer.name] for layer in layers if layer.name in found))

    with progress.phase("one layer at a time", len(left)) as step:
        try:
            for number, layer in enumerate(left, 1):
                alone, spared = prober.layer_alone(layer), prober.layer_spared(layer)
                found[layer.name] = LayerSensitivity(layer.name, alone, spared)
                step(1, kl=alone.logit_kl)
                if number % KEPT_EVERY == 0:
                    keep_all()
        finally:
            keep_all()
