# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A fine-tuned run: what was learned, what it brought, and the run folder that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from qkit.artifact.folder import MODEL, RunFolder, write_run
from qkit.clip.model import ClipModel
from qkit.data import Dataset, dataset_digest
from qkit.pipeline.finetune.learned import FILE
from qkit.pipeline.finetune.tune import Tuned
from qkit.pipeline.save import versions
from qkit.report.evaluation import Metric
from qkit.report.model import ModelReport
from qkit.report.tuning import TABLE, TuningReport


@dataclass(frozen=True, slots=True, eq=False)
class FinetuneResult:
    """A quantized model with a learned prompt and adapter.

    Attributes:
        clip: the model: ``encode_image`` has the adapter, class embeddings the prompt.
        tuned: what was learned, and how it went.
        report: what it brought.
        metrics: evaluations of the float model and of this one.
        source: the run that it was made of.
        tensors: of that run.
        dataset: the training samples.
        seconds: by phase.
    """

    clip: ClipModel
    tuned: Tuned
    report: TuningReport
    metrics: tuple[Metric, ...]
    source: RunFolder
    tensors: Mapping[str, Tensor]
    dataset: Dataset
    seconds: Mapping[str, float]

    @property
    def model(self) -> nn.Module:
        """The open_clip model with the adapter behind its image tower."""
        return self.clip.model

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write a run folder: the tensors of the source as they were, and what was learned beside.

        Raises:
            ArtifactError: the folder exists or cannot be written.
        """
        manifest = {k: v for k, v in self.source.manifest.items() if k not in ("format", "files")}
        write_run(
            Path(path),
            self.tensors,
            {**manifest, "versions": versions(), TABLE: self.describe()},
            self._model_report().to_dict(),
            overwrite=overwrite,
            beside={FILE: self.tuned.learned.tensors()},
        )

    def describe(self) -> dict[str, Any]:
        """What a run folder says about its fine-tuning."""
        prompt = self.tuned.learned.prompt
        return {
            "options": self.tuned.learned.config.to_dict(),
            "captions": prompt is not None and prompt.captions,
            "classes": list(self.dataset.classnames),
            "source": self.source.manifest["files"][MODEL]["sha256"],
            "data": {
                "source": str(self.dataset.source),
                "images": len(self.dataset),
                "digest": dataset_digest(self.dataset),
            },
            "curve": [list(point) for point in self.tuned.curve],
            "report": asdict(self.report),
        }

    def _model_report(self) -> ModelReport:
        """The layers are those of the run; what was evaluated, and how long it took, is new."""
        before = ModelReport.from_dict(self.source.report)
        return replace(
            before,
            label=f"{before.label}, p4q",
            metrics=self.metrics,
            timing={**before.timing, **self.seconds},
        )
