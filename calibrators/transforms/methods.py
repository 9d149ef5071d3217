# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The transforms that a recipe can name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from calibrators.transforms.choice import Choice, Reader
from qkit.calibration.bench import Bench, Stream
from qkit.calibration.coordinates import can_transform
from qkit.calibration.readers import arrivals, draw, group_readers
from qkit.graph.layers import Layer
from qkit.progress import Advance
from qkit.spec import PointId, QuantSpec
from qkit.transform import Transform


@dataclass(frozen=True)
class _Families:
    """Chooses, for every input by itself, among some families of coordinates.

    Attributes:
        samples: images, and texts, whose inputs are looked at.
        rows: rows of each input.
        seed: of their draw.
    """

    samples: int = 24
    rows: int = 1024
    seed: int = 0

    families: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for name in ("samples", "rows"):
            if getattr(self, name) < 1:
                message = f"{name} = {getattr(self, name)} is not possible. Use 1 or more."
                raise ValueError(message)

    def choose(self, bench: Bench, advance: Advance) -> Mapping[PointId, Transform]:
        """Coordinates for every input where they lower the error of the layers that read it."""
        found: dict[PointId, Transform] = {}
        for rig in bench.rigs("half", self.samples):
            arrived = rig.outside_inputs()
            found |= self._of(rig.outside, arrived, advance)
            if not rig.stages:
                continue
            stream = rig.enter(quantized=False)
            for stage in rig.stages:
                stream, arrived = rig.layer_inputs(stage, stream)
                found |= self._of(stage.layers, arrived, advance)
        return found

    def _of(
        self, layers: Sequence[Layer], arrived: Mapping[str, Stream], advance: Advance
    ) -> dict[PointId, Transform]:
        found: dict[PointId, Transform] = {}
        for group in group_readers(layers, arrived):
            point = next(iter(group[0].input_quantizers), None)
            advance(1)
            if point is None or not can_transform(group[0], point.spec):
                continue
            raw = [group[0].raw_rows(x) for x in arrivals(group, arrived)]
            rows = draw([part for part in raw if part is not None], self.rows, self.seed)
            if rows is None:
                continue
            readers = [Reader(layer.raw_weight, _spec(layer)) for layer in group]
            choice = Choice(rows, readers, point.spec, _patch(group[0]))
            transform, ratio = choice.best(self.families)
            if ratio < 1.0:
                found[point.point] = transform
        return found


@dataclass(frozen=True)
class Smooth(_Families):
    """Scales moved from inputs to weights, as strongly as each layer likes (SmoothQuant)."""

    families: ClassVar[tuple[str, ...]] = ("smooth",)


@dataclass(frozen=True)
class Reparameterize(_Families):
    """Channels of inputs brought to one range (RepQ-ViT)."""

    families: ClassVar[tuple[str, ...]] = ("reparameterize",)


@dataclass(frozen=True)
class Balance(_Families):
    """Inputs centred and scaled so that rounding costs the outputs least."""

    families: ClassVar[tuple[str, ...]] = ("balance",)


@dataclass(frozen=True)
class Rotate(_Families):
    """Inputs centred, scaled and turned so that no channel stands out (Hadamard)."""

    families: ClassVar[tuple[str, ...]] = ("rotate", "frequencies")


@dataclass(frozen=True)
class Best(_Families):
    """The best of all the others for each input."""

    families: ClassVar[tuple[str, ...]] = (
        "smooth",
        "reparameterize",
        "balance",
        "rotate",
        "frequencies",
    )


def _spec(layer: Layer) -> QuantSpec | None:
    return None if layer.weight_quantizer is None else layer.weight_quantizer.spec


def _patch(layer: Layer) -> tuple[int, ...] | None:
    return tuple(layer.weight_shape[1:]) if layer.kind == "conv" else None
