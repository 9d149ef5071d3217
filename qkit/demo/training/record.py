# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What is written down of a training: its plan, its log and what the stored model can do."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from qkit.clip.model import ClipModel
from qkit.demo.training.plan import Line, Plan
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.defaults import EVALUATION
from qkit.pipeline.evaluate import Evaluator
from qkit.progress import Progress


def score(clip: ClipModel, progress: Progress) -> dict[str, Any]:
    """Top-1 and top-5 or recalls of a float model on each part of the demo data, fractions."""
    evaluator = Evaluator(clip, (Mode.QUANTIZE,), progress=progress)  # it holds no quantizers
    return {part: dict(evaluator.run(part).quantized) for part in EVALUATION}


def write_record(path: Path, plan: Plan, log: Sequence[Line], scores: dict[str, Any]) -> None:
    """Write plan, versions, log and scores as JSON."""
    record = {
        "plan": asdict(plan),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "threads": torch.get_num_threads(),
        "seconds": {line.stage: round(line.seconds, 1) for line in log},
        "scores": scores,
        "log": [_rounded(line) for line in log],
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _rounded(line: Line) -> dict[str, object]:
    losses = {name: round(value, 4) for name, value in line.losses.items()}
    return {"stage": line.stage, "step": line.step, **losses, "seconds": round(line.seconds, 1)}
