# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The steps between a float model with points and a quantized one, in the order of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from qkit.artifact.checkpoints import digest, open_checkpoints
from qkit.artifact.tensors import to_tensors
from qkit.calibration.bench import Bench
from qkit.calibration.coordinates import install_transforms
from qkit.calibration.install import install, install_rounded
from qkit.calibration.memory import Forgetful, Memory
from qkit.calibration.observe import observe
from qkit.calibration.protocol import (
    AffineLearner,
    Calibrator,
    ReconstructionMethod,
    RoundingMethod,
    TransformMethod,
    affines_of,
)
from qkit.calibration.registry import (
    RECONSTRUCTIONS,
    ROUNDINGS,
    TRANSFORMS,
    Registry,
    create_calibrator,
)
from qkit.calibration.session import CalibrationSession, open_session
from qkit.clip.model import logit_scale
from qkit.clip.stages import list_stages
from qkit.errors import RecipeError
from qkit.graph.folded import folded
from qkit.pipeline.inputs import CalibrationData
from qkit.pipeline.student import Student
from qkit.progress import Progress
from qkit.recipe import Recipe
from qkit.recipe.schema import StepConfig
from qkit.spec import PointId, QParams

BENCH_BATCH = 2  # samples that a trial runs at once: a bad candidate is dropped after so many


@dataclass(frozen=True, slots=True)
class Steps:
    """Who decides in each step; None leaves the step out.

    Attributes:
        transform: coordinates of inputs.
        calibrator: scales.
        rounding: integers of weights.
        reconstruction: weights, learned from the float model.
        recipe: names all of them.
    """

    transform: TransformMethod | None
    calibrator: Calibrator
    rounding: RoundingMethod | None
    reconstruction: ReconstructionMethod | None
    recipe: Recipe

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """Create what ``recipe`` names, before any work is done.

        Raises:
            RegistryError: a name or an option is unknown, or an option is refused.
            RecipeError: a step has nothing to do, or would undo another.
        """
        _check(recipe)
        calibrator = create_calibrator(recipe.calibrator.method, recipe.calibrator.options)
        if isinstance(calibrator, AffineLearner) and calibrator.learns_affines:
            _check_affines(recipe)
        return cls(
            _create(TRANSFORMS, recipe.transform),
            calibrator,
            _create(ROUNDINGS, recipe.rounding),
            _create(RECONSTRUCTIONS, recipe.reconstruction),
            recipe,
        )

    def run(
        self,
        student: Student,
        data: CalibrationData,
        watch: Progress,
        checkpoints: Path | None = None,
    ) -> tuple[CalibrationSession, Mapping[PointId, QParams]]:
        """Quantize ``student``; what was observed, and the calibrator's own scales."""
        self._transform(student, data, watch)
        session = collect(student, data, self.recipe.batch_size, watch)
        method = self.recipe.calibrator.method
        with watch.phase(f"choose scales ({method})", len(session.points)) as step:
            chosen = self.calibrator.calibrate(session, step)
            affines = affines_of(chosen)
            install(student.model, chosen, affines)
        if affines:  # of a calibrator that did not say so
            _check_affines(self.recipe)
        self._round(student, data, watch)
        self._reconstruct(student, data, watch, checkpoints)
        return session, chosen

    def _transform(self, student: Student, data: CalibrationData, watch: Progress) -> None:
        config = self.recipe.transform
        if self.transform is None or config is None:
            return
        with watch.phase(f"choose coordinates ({config.method})", _inputs(student)) as step:
            found = self.transform.choose(bench(student, data), step)
            install_transforms(student.layers, found)

    def _round(self, student: Student, data: CalibrationData, watch: Progress) -> None:
        config = self.recipe.rounding
        if self.rounding is None or config is None:
            return
        with watch.phase(f"round weights ({config.method})", _inputs(student)) as step:
            found = self.rounding.round(bench(student, data), step)
        install_rounded(student.model, found)

    def _reconstruct(
        self, student: Student, data: CalibrationData, watch: Progress, checkpoints: Path | None
    ) -> None:
        config = self.recipe.reconstruction
        if self.reconstruction is None or config is None:
            return
        memory: Memory = Forgetful()
        if checkpoints is not None:
            start = digest(to_tensors(student.model, student.layers))
            memory = open_checkpoints(checkpoints, {**config.to_dict(), "start": start})
        parts = bench(student, data)
        total = self.reconstruction.work(parts)
        with watch.phase(f"reconstruct ({config.method})", total) as step, folded(student.model):
            found = self.reconstruction.reconstruct(parts, memory, step)
        install_rounded(student.model, found)


def _create(registry: Registry, step: StepConfig | None) -> Any:
    return None if step is None else registry.create(step.method, step.options)


def collect(
    student: Student, data: CalibrationData, batch_size: int, watch: Progress
) -> CalibrationSession:
    """Observe ``data`` once; the session serves every calibrator."""
    with watch.phase("observe calibration data", data.size) as step:
        observe(student.model, data.batches(student.clip, batch_size), step)
        return open_session(student.model, student.layers, bench(student, data))


def bench(student: Student, data: CalibrationData) -> Bench:
    """The model's parts, to be run again on the first calibration samples."""
    cut = {
        "half": list_stages(student.blocks, student.layers, halves=True),
        "block": list_stages(student.blocks, student.layers, halves=False),
    }
    read = partial(data.batches, student.clip, BENCH_BATCH)
    return Bench(student.model, student.layers, cut, read, logit_scale(student.model))


def _inputs(student: Student) -> int:
    """Inputs that layers with a weight read; those without a point count by layer."""
    found = {
        next(iter(layer.input_quantizers), layer)
        for layer in student.layers
        if layer.kind not in ("attention", "embedding")
    }
    return len(found)


def _check_affines(recipe: Recipe) -> None:
    if recipe.rounding is not None:
        message = (
            f"[rounding] {recipe.rounding.method!r} would undo what the calibrator learned of "
            "LayerNorms. Drop [rounding], or optimize_encoder."
        )
        raise RecipeError(message)


def _check(recipe: Recipe) -> None:
    schemes = [rule.scheme for rule in recipe.rules]
    inputs = [scheme.input for scheme in schemes if scheme.input is not None]
    if recipe.transform is not None and not any(spec.mixable for spec in inputs):
        message = (
            f"[transform] {recipe.transform.method!r} has no input to change: the rules leave all "
            "in float, or give channels a scale or inputs a grid of their own. Quantize inputs per "
            "token or per tensor."
        )
        raise RecipeError(message)
    for name, step in (("rounding", recipe.rounding), ("reconstruction", recipe.reconstruction)):
        if step is not None and not any(scheme.weight for scheme in schemes):
            message = (
                f"[{name}] {step.method!r} has no weight to round: the rules leave all in float. "
                f"Quantize weights, or drop [{name}]."
            )
            raise RecipeError(message)
