# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A recipe as frozen data, and as the plain dictionary that a run folder stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qkit.spec import Granularity, QuantSpec, Scheme

WEIGHT = QuantSpec(8, symmetric=True, granularity=Granularity.CHANNEL)
INPUT = QuantSpec(8)
ATTENTION = QuantSpec(8)


@dataclass(frozen=True, slots=True)
class SchemeRule:
    """How the layers are quantized that this rule is the first to match.

    Attributes:
        match: glob over layer names, or "re:" and a regular expression that must match fully.
        kind: only layers of this kind; None for any.
        tower: only layers of this tower; None for both.
        scheme: what to do with them; an empty scheme leaves them in float.
    """

    match: str = "*"
    kind: str | None = None
    tower: str | None = None
    scheme: Scheme = field(default_factory=lambda: Scheme(WEIGHT, INPUT, ATTENTION))

    @property
    def ignores(self) -> bool:
        """Whether the rule leaves its layers in float."""
        return self.scheme == Scheme()

    def __str__(self) -> str:
        limits = [f"{k} = {v!r}" for k, v in (("kind", self.kind), ("tower", self.tower)) if v]
        return ", ".join([f"match = {self.match!r}", *limits])

    def to_dict(self) -> dict[str, Any]:
        """The rule as a recipe file writes it."""
        out: dict[str, Any] = {"match": self.match}
        out |= {k: v for k, v in (("kind", self.kind), ("tower", self.tower)) if v is not None}
        if self.ignores:
            return out | {"ignore": True}
        for name in ("weight", "input", "attention"):
            spec = getattr(self.scheme, name)
            out[name] = False if spec is None else spec_to_dict(spec)
        probs = self.scheme.probs
        return out if probs is None else out | {"probs": spec_to_dict(probs)}


@dataclass(frozen=True, slots=True)
class CalibratorConfig:
    """Which calibrator decides, and its options (the fields of its class)."""

    method: str = "mse"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepConfig:
    """A step that a recipe may leave out, by the name of its plug-in, and its options."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The step as a recipe file writes it."""
        return {"method": self.method, **self.options}


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything about a calibration but the model and the data.

    Attributes:
        rules: the first rule that matches a layer wins; a layer that none matches stays in float.
        calibrator: who chooses the scales.
        transform: who chooses the coordinates in which inputs are rounded; None for their own.
        rounding: who chooses the integers of weights; None for the nearest.
        reconstruction: who learns weights from the float model afterwards; None for nobody.
        search: a search for the bits of each layer beforehand, as a plain table; None for none.
        p4q: options of a fine-tuning of what this recipe makes, as a plain table; None for the
            defaults.
        samples: calibration images drawn from the data (and as many texts).
        batch_size: images, and texts, run at once.
        seed: of the draw.
        summary: one line for people.
    """

    rules: tuple[SchemeRule, ...] = (SchemeRule(),)
    calibrator: CalibratorConfig = field(default_factory=CalibratorConfig)
    transform: StepConfig | None = None
    rounding: StepConfig | None = None
    reconstruction: StepConfig | None = None
    search: Mapping[str, Any] | None = None
    p4q: Mapping[str, Any] | None = None
    samples: int = 128
    batch_size: int = 32
    seed: int = 0
    summary: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The recipe as a recipe file writes it; ``parse_recipe`` reads it back to an equal one."""
        calibrator = StepConfig(self.calibrator.method, self.calibrator.options)
        steps = {
            "transform": self.transform,
            "calibrator": calibrator,
            "rounding": self.rounding,
            "reconstruction": self.reconstruction,
        }
        tables = {"search": self.search, "p4q": self.p4q}
        return {
            "summary": self.summary,
            "seed": self.seed,
            "data": {"samples": self.samples, "batch_size": self.batch_size},
            **{name: step.to_dict() for name, step in steps.items() if step is not None},
            **{name: dict(table) for name, table in tables.items() if table is not None},
            "rule": [rule.to_dict() for rule in self.rules],
        }


def spec_to_dict(spec: QuantSpec) -> dict[str, Any]:
    """A spec as a recipe file writes it."""
    table = {
        "bits": spec.bits,
        "symmetric": spec.symmetric,
        "granularity": spec.granularity.value,
    }
    return table if spec.uniform else table | {"grid": spec.grid.value}
