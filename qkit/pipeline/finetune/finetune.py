# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""From a run folder and a few labelled images to the same run with a prompt and an adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from qkit.artifact.checkpoints import open_checkpoints
from qkit.artifact.folder import MODEL, RunFolder, read_run
from qkit.calibration.memory import Forgetful, Memory
from qkit.clip.model import ClipModel
from qkit.clip.zero_shot import templates
from qkit.data import Dataset, dataset_digest, open_dataset, parse_source
from qkit.errors import ArtifactError, TrainingError
from qkit.p4q.config import P4QConfig
from qkit.p4q.trainer import PART, Diverged
from qkit.pipeline.evaluate import open_evaluation
from qkit.pipeline.finetune.configured import configured
from qkit.pipeline.finetune.draw import draw_training
from qkit.pipeline.finetune.gains import compare
from qkit.pipeline.finetune.result import FinetuneResult
from qkit.pipeline.finetune.tune import Tuned, check_targets, tune
from qkit.pipeline.stopwatch import Stopwatch
from qkit.pipeline.teacher import load_teacher
from qkit.progress import Progress, Silent
from qkit.report.tuning import TABLE, Gain, TuningReport

DEVICES = ("cpu", "cuda")


def finetune_p4q(
    run: str | Path,
    data: str,
    *,
    shots: int | None = None,
    evaluate: Sequence[str] = (),
    config: P4QConfig | None = None,
    model: str | None = None,
    device: str = "cpu",
    cache: bool = True,
    progress: Progress | None = None,
    checkpoints: Path | None = None,
    resume: bool = False,
) -> FinetuneResult:
    """Train a prompt and a low-bit adapter for a quantized run (P4Q, arXiv 2409.17634).

    Nothing of the run itself changes. The float model that it was made of is the teacher.

    Args:
        run: folder of a calibrated run.
        data: "classes:DIR", "captions:CSV" or "demo:PART" to learn from.
        shots: images of each class, 16 by default; captioned images are all used.
        evaluate: sources to compare float, quantized and fine-tuned model on.
        config: everything about the training; by default what the recipe of the run says.
        model: where the float model lies now; by default where it lay.
        device: to train on.
        cache: encode each training image once, not once an epoch.
        progress: who shows how far it is.
        checkpoints: folder where each epoch is kept; None keeps none.
        resume: go on from what ``checkpoints`` holds; the result is that of an uninterrupted run.

    Raises:
        QkitError: anything the caller can mend, in one line.
    """
    options = config or configured(Path(run))
    place = _device(device)
    templates(options.templates)  # refuses what there is not, before any work
    watch = Stopwatch(progress or Silent())
    folder = _read_untuned(Path(run))
    dataset = draw_training(open_dataset(parse_source(data)), shots, options.seed)
    targets = [open_evaluation(source) for source in evaluate]
    memory = _memory(checkpoints, folder, dataset, options, resume=resume)
    with watch.phase("load model", None):
        clip = load_teacher(folder, model).clip
        clip.model.to(place)
    size = sum(p.numel() for p in clip.model.parameters())
    check_targets(clip, dataset, targets, options)
    tuned = _tune(clip, dataset, options, memory, watch, cache, checkpoints)
    served, metrics, gains = compare(clip, tuned.learned, targets, watch)
    seconds = {name: round(value, 3) for name, value in watch.seconds.items()}
    report = _report(tuned, dataset, size, seconds["train"], gains)
    return FinetuneResult(
        served, tuned, report, metrics, folder, folder.tensors(), dataset, seconds
    )


def _device(name: str) -> torch.device:
    """The processor or graphics card that is called so.

    Raises:
        TrainingError: there is none.
    """
    found = None
    with suppress(RuntimeError, AssertionError):  # the latter where torch has no CUDA
        found = torch.empty(0, device=name).device
    if found is None or found.type not in DEVICES:
        message = f"--device {name} is not at hand. Use cpu, or cuda where torch finds one."
        raise TrainingError(message)
    return found


def _read_untuned(path: Path) -> RunFolder:
    folder = read_run(path)
    if TABLE in folder.manifest:
        message = f"{path} is fine-tuned already. Name the run that it was made of."
        raise ArtifactError(message)
    return folder


def _memory(
    place: Path | None, folder: RunFolder, dataset: Dataset, config: P4QConfig, *, resume: bool
) -> Memory:
    """Where epochs are kept.

    Raises:
        ArtifactError: there are some, but they are not asked for; or the other way round; or they
            are another fine-tuning's.
    """
    if place is None:
        return Forgetful()
    kept = (place / f"{PART}.safetensors").is_file()
    if kept and not resume:
        message = f"{place} holds an interrupted fine-tuning. Add --resume to go on, or delete it."
        raise ArtifactError(message)
    if resume and not kept:
        message = f"there is nothing to resume in {place}. Drop --resume, or check --out."
        raise ArtifactError(message)
    key = {
        "run": folder.manifest["files"][MODEL]["sha256"],
        "data": dataset_digest(dataset),
        "options": _without_rates(config),
    }
    return open_checkpoints(place, key)


def _without_rates(config: P4QConfig) -> Mapping[str, Any]:
    """Who diverges may go on with smaller steps."""
    table = config.to_dict()
    for part in ("prompt", "adapter"):
        if table[part] is not None:
            table[part].pop("rate")
    return table


def _tune(
    clip: ClipModel,
    dataset: Dataset,
    config: P4QConfig,
    memory: Memory,
    watch: Progress,
    cache: bool,
    place: Path | None,
) -> Tuned:
    try:
        return tune(clip, dataset, config, memory, watch, cache=cache)
    except Diverged as error:
        kept = ""
        if place is not None and error.epoch:
            kept = f"; epoch {error.epoch} is kept in {place}, --resume goes on from it"
        message = f"{error}{kept}. Use a smaller --prompt-rate or --adapter-rate."
        raise TrainingError(message) from error


def _report(
    tuned: Tuned, dataset: Dataset, size: int, seconds: float, gains: tuple[Gain, ...]
) -> TuningReport:
    loss, accuracy = tuned.curve[-1]
    added = tuned.learned.parameters
    return TuningReport(
        images=len(dataset),
        epochs=len(tuned.curve),
        loss=loss,
        accuracy=accuracy,
        added=added,
        share=added / size,
        seconds=seconds,
        gains=gains,
    )
