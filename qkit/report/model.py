# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The report as data: everything that any view shows comes from here (``report.json``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qkit.errors import ArtifactError
from qkit.graph.coverage import Coverage
from qkit.report.analyses import Analyses
from qkit.report.codec import structure, unstructure
from qkit.report.evaluation import Metric
from qkit.report.figures import FIGURES, read_figure
from qkit.report.layer import BlockReport, LayerReport
from qkit.report.partition import PartitionReport
from qkit.report.space import Space

VERSION = 3


@dataclass(frozen=True, slots=True)
class ModelReport:
    """All that was measured of one quantized model.

    Attributes:
        label: e.g. "W4A4 attn8, mse".
        model: the model's name.
        metrics: one entry per evaluation, in the order asked for.
        embedding_cosine: mean cosine of float and quantized embeddings, by tower, -1 to 1.
        coverage: share of weights and of multiply-accumulates quantized, and what is not.
        size: ``float_bytes`` (fp32) and, once written, ``quantized_bytes`` of all files of tensors.
        timing: seconds by phase.
        calibration: images, texts and skipped files the scales come from; ``measured``: pairs that
            the layers' errors come from.
        layers: one entry per layer, tower by tower in the order in which they run.
        blocks: one entry per transformer block, tower by tower.
        analyses: what was measured on demand.
        partition: the groups of layers that the calibrator searched together, if it does that.
        version: of this layout; grows when a field changes its meaning or is added.
    """

    label: str
    model: str
    metrics: tuple[Metric, ...]
    embedding_cosine: Mapping[str, float]
    coverage: Coverage
    size: Mapping[str, int]
    timing: Mapping[str, float]
    calibration: Mapping[str, Any]
    layers: tuple[LayerReport, ...] = ()
    blocks: tuple[BlockReport, ...] = ()
    analyses: Analyses = field(default_factory=Analyses)
    partition: PartitionReport = field(default_factory=PartitionReport)
    version: int = VERSION

    @property
    def spaces(self) -> dict[str, Space]:
        """Every embedding space of the whole model by its data; an analysis is the later word."""
        evaluated = {metric.data: metric.space for metric in self.metrics if metric.space}
        return {**evaluated, **self.analyses.spaces}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; an infinite SQNR is written as null."""
        return unstructure(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelReport:
        """Inverse of ``to_dict``.

        Raises:
            ArtifactError: something is missing or left over, or another version wrote it.
        """
        version = data.get("version", 1)
        if version != VERSION:
            newer = isinstance(version, int) and version > VERSION
            remedy = "Upgrade qkit-clip" if newer else "Calibrate again"
            message = f"report.json has layout {version}, this qkit reads {VERSION}. {remedy}."
            raise ArtifactError(message)
        report = structure(data, cls)
        try:
            _check_figures(report)
        except (KeyError, TypeError, ValueError) as error:
            message = (
                f"report.json is damaged: a figure is missing or wrong ({error}). Calibrate again."
            )
            raise ArtifactError(message) from error
        return report


def _check_figures(report: ModelReport) -> None:
    """Read what every view reads of the parts whose keys no dataclass names."""
    float(report.size["float_bytes"])
    for metric in report.metrics:
        for path in FIGURES[metric.task]:
            read_figure(metric.quantized, path)
            if metric.float is not None:
                read_figure(metric.float, path)
