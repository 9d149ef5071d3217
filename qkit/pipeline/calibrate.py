# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""From a float CLIP model and some data to a quantized model and its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from qkit.clip.loading import load_model
from qkit.clip.model import wrap
from qkit.graph.coverage import Coverage
from qkit.p4q.table import read_config
from qkit.pipeline.defaults import Model, fill_in
from qkit.pipeline.evaluate import Evaluator, open_evaluation
from qkit.pipeline.inputs import CalibrationData, open_calibration
from qkit.pipeline.measure import Findings, measure_student
from qkit.pipeline.save import save_run
from qkit.pipeline.search.mix import check_mix, mixed
from qkit.pipeline.steps import Steps
from qkit.pipeline.stopwatch import Stopwatch
from qkit.pipeline.student import Student, give_points, prepare, require_coverage
from qkit.progress import Progress, Silent
from qkit.recipe import Recipe, load_recipe, override
from qkit.recipe.overrides import Overrides
from qkit.report.model import ModelReport
from qkit.report.partition import PartitionReport, describe_partition, mark_layers


@dataclass(frozen=True, slots=True)
class CalibrationResult:
    """A quantized model and what is known about it.

    Attributes:
        model: the quantized open_clip model: ``encode_image``, ``encode_text``, ``forward``.
        report: per-layer errors, coverage, metrics.
        recipe: the recipe as it was resolved.
        student: the model with its layers, tokenizer and preprocessing.
        data: the calibration samples.
    """

    model: nn.Module
    report: ModelReport
    recipe: Recipe
    student: Student
    data: CalibrationData

    def __iter__(self) -> Iterator[nn.Module | ModelReport]:
        """Unpack as ``model, report = qkit.calibrate(...)``."""
        return iter((self.model, self.report))

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the run folder that ``qkit.load`` reads.

        Raises:
            ArtifactError: the folder exists or cannot be written, or the model was given as a bare
                module, whose architecture has no name.
        """
        save_run(
            Path(path),
            self.student,
            self.recipe,
            self.report.to_dict(),
            self.report.calibration,
            overwrite=overwrite,
        )


def calibrate(
    model: Model | None = None,
    data: str | None = None,
    *,
    recipe: str | Recipe | None = None,
    bits: int | None = None,
    method: str | None = None,
    overrides: Overrides | None = None,
    evaluate: Sequence[str] = (),
    templates: int = 7,
    skip_bad: bool = False,
    min_coverage: float | None = None,
    progress: Progress | None = None,
    checkpoints: Path | None = None,
) -> CalibrationResult:
    """Quantize a CLIP model.

    Args:
        model: open_clip name ("ViT-B-32:openai", "local-dir:FOLDER"), the result of
            ``qkit.load_model``, or an open_clip model; one given as an object is copied. Without
            model and data, the demo model is calibrated and evaluated on the demo data.
        data: "captions:CSV", "classes:DIR", "images:DIR" or "demo:PART"; several, of which each
            gives its share of the samples, with " + " between them.
        recipe: name, TOML file or object; all layers at 8 bits with ``mse`` by default.
        bits: bits of weights and activations; attention operands keep the recipe's (8).
        method: calibrator, see ``qkit calibrators``.
        overrides: everything else a flag can change.
        evaluate: sources to evaluate float and quantized model on.
        templates: 7 or 80 prompt templates for zero-shot classification.
        skip_bad: leave unreadable images out, counted, instead of stopping.
        min_coverage: refuse less than this fraction of weights or of MACs quantized.
        progress: who shows how far it is.
        checkpoints: folder where a search and a reconstruction keep what they have done, so that
            the same call goes on there after an interruption; None keeps nothing.

    Raises:
        QkitError: anything the caller can mend, in one line.
    """
    watch = Stopwatch(progress or Silent())
    flags = overrides or Overrides()
    flags = replace(
        flags,
        bits=flags.bits if bits is None else bits,
        method=flags.method if method is None else method,
    )
    resolved = override(_recipe(recipe), flags)
    steps = Steps.of(resolved)
    check_mix(resolved)
    read_config(resolved.p4q or {})  # refuses what a fine-tuning would, before any work
    inputs = fill_in(model, data, evaluate)
    calib = open_calibration(inputs.data, resolved.samples, resolved.seed, skip_bad=skip_bad)
    targets = [open_evaluation(source) for source in inputs.evaluate]
    with watch.phase("load model", None):
        student = _student(inputs.model)
        coverage = give_points(student, resolved)
    require_coverage(coverage, min_coverage)
    if resolved.search is not None:
        resolved = mixed(student, resolved, calib, watch, checkpoints)
        steps, coverage = Steps.of(resolved), give_points(student, resolved)
    session, chosen = steps.run(student, calib, watch, checkpoints)
    evaluator = Evaluator(student.clip, template_count=templates, skip_bad=skip_bad, progress=watch)
    findings = measure_student(student, calib, session.seen, watch)
    report = _report(student, resolved, calib, coverage, findings)
    metrics = tuple(evaluator.run_on(target) for target in targets)
    report = replace(report, metrics=metrics, timing=_rounded(watch.seconds))
    report = _searched(report, describe_partition(chosen))
    return CalibrationResult(student.model, report, resolved, student, calib)


def _report(
    student: Student,
    recipe: Recipe,
    data: CalibrationData,
    coverage: Coverage,
    findings: Findings,
) -> ModelReport:
    float_bytes = 4 * sum(p.numel() for p in student.model.parameters())
    return ModelReport(
        label=label(recipe),
        model=student.clip.spec,
        metrics=(),
        embedding_cosine=findings.embedding_cosine,
        coverage=coverage,
        size={"float_bytes": float_bytes},
        timing={},
        calibration={**data.describe(), "measured": findings.pairs},
        layers=findings.layers,
        blocks=findings.blocks,
    )


def _searched(report: ModelReport, partition: PartitionReport) -> ModelReport:
    """The report with what the calibrator noted of the layers it searched together."""
    return replace(report, layers=mark_layers(report.layers, partition), partition=partition)


def label(recipe: Recipe) -> str:
    """Short name of a recipe's bits and method, such as "W4A4 attn8, mse"."""
    schemes = [rule.scheme for rule in recipe.rules if not rule.ignores]

    def bits(name: str) -> str:
        specs = {getattr(scheme, name) for scheme in schemes}
        known = sorted({spec.bits for spec in specs if spec is not None})
        return "/".join(map(str, known)) or "float"

    specs = [spec for s in schemes for spec in (s.weight, s.input, s.probs) if spec is not None]
    odd = {spec.grid.value for spec in specs if not spec.uniform}
    dynamic = any(s.input is not None and s.input.dynamic for s in schemes)
    suffix = " per token" if dynamic else ""
    probs = f" probs{bits('probs')}" if any(scheme.probs for scheme in schemes) else ""
    bits_text = f"W{bits('weight')}A{bits('input')} attn{bits('attention')}{probs}{suffix}"
    bits_text = " ".join([bits_text, *sorted(odd)])
    steps = (recipe.transform, recipe.calibrator, recipe.rounding, recipe.reconstruction)
    return ", ".join([bits_text, *(step.method for step in steps if step is not None)])


def _recipe(recipe: str | Recipe | None) -> Recipe:
    if recipe is None:
        return Recipe()
    return load_recipe(recipe) if isinstance(recipe, str) else recipe


def _student(model: Model) -> Student:
    if isinstance(model, str):
        return prepare(load_model(model), copy=False)
    return prepare(wrap(model) if isinstance(model, nn.Module) else model)


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in seconds.items()}
