# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Time a run in integers beside fp32 and bf16."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from qkit.errors import DataError
from qkit.exports.opened import ExportFolder
from qkit.pipeline.bench.clock import Reading, interleaved, summarize, threads
from qkit.pipeline.bench.contenders import (
    BF16,
    FLOATS,
    FP32,
    WHAT,
    load_all,
    load_export,
    make_batch,
    models_by_name,
    open_exports,
)
from qkit.pipeline.bench.memory import memory_of
from qkit.pipeline.run import Run
from qkit.progress import Progress, Silent
from qkit.report.speed import Footprint, SpeedReport, SpeedRow


def bench(
    path: str | Path,
    *,
    batch_sizes: Sequence[int] = (1, 16),
    what: Sequence[str] = WHAT,
    exports: Sequence[Path] = (),
    thread_count: int | None = None,
    warmup: int = 1,
    repeats: int = 5,
    memory: bool = True,
    progress: Progress | None = None,
) -> SpeedReport:
    """Time a run's integer model beside open_clip's fp32 and bf16, in turn in one process.

    Its exports may join them, each in the first of its format's backends.

    A simulated model is never timed: its speed says nothing.

    Args:
        path: run folder.
        batch_sizes: images or texts at once.
        what: any of "image", "captions" (texts of ordinary length) and "full texts".
        exports: folders of ``qkit.export``, of this run.
        thread_count: for torch and the backends of exports; None leaves what torch has.
        warmup: batches before the clock runs.
        repeats: batches measured.
        memory: load each model in a process of its own, too, and see what it takes.
        progress: who shows how far it is.

    Raises:
        ArtifactError: the run cannot be loaded, or an export is none of it.
        DataError: there is nothing to time.
        ExportError: an export failed its proof, or its package is missing.
        ModelError: no layer of the run multiplies in integers on this machine.
    """
    if not batch_sizes or min(batch_sizes) < 1 or not what or repeats < 1:
        message = (
            f"batch sizes {list(batch_sizes)}, {list(what)} and {repeats} repeats leave nothing to "
            "time. Give at least one of each, from 1 up."
        )
        raise DataError(message)
    progress = progress or Silent()
    joined = open_exports(Path(path), exports)
    run, models = load_all(Path(path))
    rows: list[SpeedRow] = []
    with threads(thread_count) as given, torch.inference_mode():
        models |= {name: load_export(one, run.clip, given) for name, one in joined.items()}
        for kind in what:
            for count in batch_sizes:
                works = models_by_name(models, make_batch(run.clip, kind, count))
                with progress.phase(f"{kind}, batch {count}", warmup + repeats) as advance:
                    readings = interleaved(works, warmup, repeats, advance)
                rows += _rows(kind, count, readings)
    footprints = _footprints(run, joined, max(batch_sizes), given, progress if memory else None)
    reasons = Counter(fallback.reason for fallback in run.execution.fallbacks)
    return SpeedReport(
        given,
        warmup,
        repeats,
        tuple(rows),
        footprints,
        run.execution.name,
        len(run.layers),
        dict(reasons),
    )


def _rows(what: str, batch: int, readings: dict[str, list[Reading]]) -> list[SpeedRow]:
    cpu = {name: summarize([r.cpu for r in found]) for name, found in readings.items()}
    wall = {name: summarize([r.wall for r in found]) for name, found in readings.items()}
    return [
        SpeedRow(
            what,
            batch,
            name,
            cpu[name],
            wall[name],
            batch / wall[name].median,
            cpu[FP32].median / cpu[name].median,
        )
        for name in readings
    ]


def _footprints(
    run: Run,
    exports: Mapping[str, ExportFolder],
    batch: int,
    thread_count: int,
    progress: Progress | None,
) -> dict[str, Footprint]:
    """Files and memory by model; without ``progress``, files only."""
    size = run.report.size
    files = dict.fromkeys((*FLOATS, run.execution.name), size["quantized_bytes"])
    files |= {FP32: size["float_bytes"], BF16: size["float_bytes"] // 2}
    files |= {name: export.bytes for name, export in exports.items()}
    taken: dict[str, tuple[int, int] | None] = dict.fromkeys(files)
    if progress is not None:
        with progress.phase("memory", len(files)) as advance:
            for name in files:
                one = exports[name].path if name in exports else None
                taken[name] = memory_of(name, run.folder.path, batch, thread_count, one)
                advance(1)
    return {name: Footprint(files[name], *(taken[name] or (None, None))) for name in files}
