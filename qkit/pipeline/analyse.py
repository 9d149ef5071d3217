# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Analyses on demand; what they find is kept in the run's report and not measured twice."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from qkit.artifact.folder import RunFolder, read_run, update_report
from qkit.calibration.observe import Batch
from qkit.data import dataset_digest
from qkit.errors import ArtifactError, DataError
from qkit.graph.partial import Chosen
from qkit.nn.attention import OPERANDS
from qkit.pipeline.evaluate import Evaluator, open_evaluation
from qkit.pipeline.finetune.learned import stored_learned
from qkit.pipeline.inputs import CalibrationData, open_calibration
from qkit.pipeline.probe import Prober, everything
from qkit.pipeline.sensitivity import measure_layers
from qkit.pipeline.student import Student
from qkit.pipeline.teacher import load_teacher
from qkit.progress import Progress, Silent
from qkit.report.analyses import Analyses, LayerSensitivity, Parts, Sensitivity
from qkit.report.model import ModelReport
from qkit.report.space import Space

BATCH = 16
PARTS: Mapping[str, Chosen] = {
    "all": everything,
    "weights": lambda layer, role: role == "weight",
    "activations": lambda layer, role: role != "weight",
    "layer inputs": lambda layer, role: role in ("input", "context"),
    "attention operands": lambda layer, role: role in OPERANDS,
    "image tower": lambda layer, role: layer.tower == "image",
    "text tower": lambda layer, role: layer.tower == "text",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which analyses, on what.

    Attributes:
        sensitivity: one layer at a time.
        parts: weights only, activations only, one tower only.
        space: the embedding space as a whole.
        data: pairs to measure on; by default those of the calibration.
        samples: how many pairs.
        model: where the float model lies now; by default where it lay.
        refresh: measure again what is known already.
    """

    sensitivity: bool = False
    parts: bool = False
    space: bool = False
    data: str | None = None
    samples: int = 32
    model: str | None = None
    refresh: bool = False

    @property
    def any(self) -> bool:
        """Whether anything is wanted."""
        return self.sensitivity or self.parts or self.space


def analyse(run: str | Path, wanted: Wanted, progress: Progress | None = None) -> ModelReport:
    """Measure what is wanted and not known yet; returns the report, which the run folder keeps.

    An interruption keeps the layers measured so far; the next call goes on from there.

    Raises:
        ArtifactError: there is no such run, or it is damaged or read-only.
        ModelError: its float model cannot be loaded or is another.
        DataError: the data are unusable.
    """
    return _Analysis(read_run(Path(run)), wanted, progress or Silent()).run()


class _Analysis:
    """One call; the model is loaded only when something has to be measured."""

    def __init__(self, folder: RunFolder, wanted: Wanted, progress: Progress) -> None:
        self.folder = folder
        self.wanted = wanted
        self.progress = progress
        self.report = ModelReport.from_dict(folder.report)
        self.source = wanted.data or str(self.report.calibration["source"])
        drawn = int(self.report.calibration["images"])
        self.samples = wanted.samples if wanted.data else min(wanted.samples, drawn)
        self._data: CalibrationData | None = None
        self._student: Student | None = None
        self._prober: Prober | None = None

    def run(self) -> ModelReport:
        if self.wanted.refresh:
            self.report = replace(self.report, analyses=self._forgotten())
        if self.wanted.parts and not self._known(self.report.analyses.parts):
            self._keep(replace(self.report.analyses, parts=self._parts()))
        if self.wanted.space and self.space_name not in self.report.analyses.spaces:
            spaces = {**self.report.analyses.spaces, self.space_name: self._space()}
            self._keep(replace(self.report.analyses, spaces=spaces))
        if self.wanted.sensitivity and not self._complete():
            self._sensitivity()
        return self.report

    @property
    def space_name(self) -> str:
        """Data named are measured whole, the calibration's own in part."""
        first = f" (first {self.samples} pairs)"
        return self.source if self.wanted.data else self.source + first

    def _forgotten(self) -> Analyses:
        """The analyses without what is to be measured again."""
        known, wanted = self.report.analyses, self.wanted
        spaces = {n: s for n, s in known.spaces.items() if not wanted.space or n != self.space_name}
        return Analyses(
            None if wanted.sensitivity else known.sensitivity,
            None if wanted.parts else known.parts,
            spaces,
        )

    def _keep(self, analyses: Analyses) -> None:
        self.report = replace(self.report, analyses=analyses)
        update_report(self.folder.path, self.report.to_dict())

    def _known(self, found: Parts | Sensitivity | None) -> bool:
        """Whether a stored result is of these very pairs."""
        return found is not None and found.digest == self.digest

    def _complete(self) -> bool:
        found = self.report.analyses.sensitivity
        if found is None or not self._known(found):
            return False
        return len(found.layers) == len(self.report.layers)

    @property
    def data(self) -> CalibrationData:
        """The pairs; as many of the calibration's own first ones, unless other data are named."""
        if self._data is None:
            seed = int(self.folder.manifest["seed"])
            self._data = open_calibration(
                self.source, self.samples, seed, skip_bad=self.wanted.data is None
            )
        return self._data

    @property
    def digest(self) -> str:
        """Fingerprint of the pairs."""
        return dataset_digest(self.data.dataset)

    @property
    def student(self) -> Student:
        """The float model with the run's points.

        Raises:
            ArtifactError: the run folder could not keep what is about to be measured.
        """
        if self._student is None:
            if not os.access(self.folder.path, os.W_OK):
                message = f"{self.folder.path} is read-only. Copy it and analyse the copy."
                raise ArtifactError(message)
            with self.progress.phase("load float model", None):
                self._student = load_teacher(self.folder, self.wanted.model)
        return self._student

    @property
    def prober(self) -> Prober:
        """Float and quantized embeddings of the pairs."""
        if self._prober is None:
            student, batches = self.student, list[Batch]()
            with self.progress.phase("encode pairs", None):
                batches += self.data.batches(student.clip, BATCH)
                self._prober = Prober(student, batches)
        return self._prober

    def _parts(self) -> Parts:
        prober, spaces = self.prober, dict[str, Space]()
        with self.progress.phase("one part at a time", len(PARTS)) as step:
            for name, chosen in PARTS.items():
                spaces[name] = prober.part(chosen)
                step(1, kl=spaces[name].logit_kl)
        return Parts(self.source, self.digest, len(self.data.dataset), spaces)

    def _space(self) -> Space:
        """Of the data named, whole and with labels; of the calibration's, the first pairs."""
        if self.wanted.data is None:
            return self.prober.whole()
        dataset = open_evaluation(self.wanted.data)
        clip, learned = self.student.clip, stored_learned(self.folder)
        with nullcontext(clip) if learned is None else learned.lent_to(clip) as clip:
            space = Evaluator(clip, progress=self.progress).run_on(dataset).space
        if space is None:
            message = f"{self.wanted.data} gives no embeddings to compare. Name other data."
            raise DataError(message)
        return space

    def _sensitivity(self) -> None:
        """What was measured before on these pairs is not measured again."""
        prober, before = self.prober, self.report.analyses.sensitivity
        known = before.layers if before is not None and self._known(before) else ()
        base = Sensitivity(
            self.source, self.digest, len(self.data.dataset), prober.whole(), tuple(known)
        )

        def keep(layers: tuple[LayerSensitivity, ...]) -> None:
            found = replace(base, layers=layers)
            self._keep(replace(self.report.analyses, sensitivity=found))

        measure_layers(prober, known, keep, self.progress)
