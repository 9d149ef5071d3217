# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Measure a calibrated student on its first calibration samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qkit.pipeline.inputs import CalibrationData
from qkit.pipeline.student import Student
from qkit.progress import Progress
from qkit.report.build import Known, build_reports
from qkit.report.diagnose import diagnose
from qkit.report.layer import BlockReport, LayerReport
from qkit.report.measure import measure
from qkit.spec import PointId, TensorStats

MEASURED = 64  # images, and texts
MEASURE_BATCH = 4  # float outputs of one batch are kept until the quantized pass has reached them
ALONE_EVERY = 8  # local and inherited errors cost two more forwards: each so many-th batch
DIAGNOSED = 4


@dataclass(frozen=True, slots=True)
class Findings:
    """What was measured.

    Attributes:
        layers: one report a layer.
        blocks: one report a block.
        embedding_cosine: mean cosine of float and quantized embeddings by tower.
        pairs: images, and texts, that were measured.
    """

    layers: tuple[LayerReport, ...]
    blocks: tuple[BlockReport, ...]
    embedding_cosine: Mapping[str, float]
    pairs: int


def measure_student(
    student: Student,
    data: CalibrationData,
    seen: Mapping[PointId, TensorStats],
    progress: Progress,
) -> Findings:
    """Measure every layer and block, then look closer at a few samples and explain.

    Args:
        student: calibrated.
        data: the first samples of these.
        seen: what calibration saw at each point.
        progress: who shows how far it is.
    """
    pairs = min(MEASURED, len(data.dataset))
    batches = data.batches(student.clip, MEASURE_BATCH, limit=MEASURED)
    parts = (student.model, student.layers, student.blocks)
    with progress.phase("measure layers", 2 * pairs) as step:
        found = measure(*parts, batches, step, every=ALONE_EVERY)
    with progress.phase("look for causes", None):
        few = next(data.batches(student.clip, DIAGNOSED, limit=MEASURED))
        known = Known(seen, student.macs, found, diagnose(*parts, few, found))
        layers, blocks = build_reports(student.layers, student.blocks, known)
    return Findings(layers, blocks, found.embedding_cosine, found.samples)
