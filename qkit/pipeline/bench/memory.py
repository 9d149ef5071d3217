# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""How much memory a model takes, measured in a process of its own."""

from __future__ import annotations

import gc
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from qkit.artifact.folder import read_run
from qkit.clip.blank import blank
from qkit.clip.text import accept_short_texts
from qkit.exports.optional import require
from qkit.pipeline.bench.contenders import (
    BF16,
    FLOATS,
    encode,
    float_model,
    load_export,
    load_quietly,
    make_batch,
    open_exports,
)

WHATS = ("image", "full texts")
STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def memory_of(
    model: str, path: Path, batch: int, threads: int, export: Path | None = None
) -> tuple[int, int] | None:
    """Bytes held after one batch of each tower and the most at once, above the imports.

    Args:
        model: "fp32", "bf16", "int8" or "int4", or any name for an export.
        path: run folder.
        batch: images or texts at once.
        threads: for torch, or what runs the export.
        export: folder of an export of it that is meant.

    Returns:
        None where the system does not tell (it is asked for in Linux's way).
    """
    if not STATUS.exists() or not FORGET.exists():
        return None
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as fresh:
        return fresh.submit(_measure, model, path, batch, threads, export).result()


def _measure(
    model: str, path: Path, batch: int, threads: int, export: Path | None
) -> tuple[int, int]:
    torch.set_num_threads(threads)
    if export is not None:
        return _measure_export(path, export, batch, threads)
    before = _start()
    dtype = torch.bfloat16 if model == BF16 else torch.float32
    clip = float_model(path, dtype) if model in FLOATS else load_quietly(path, model).clip
    with torch.inference_mode():
        for what in WHATS:
            encode(clip.model, make_batch(clip, what, batch))
    return _taken(before)


def _measure_export(path: Path, export: Path, batch: int, threads: int) -> tuple[int, int]:
    """An export needs no model of open_clip's; what makes its inputs does not count."""
    described = read_run(path).manifest["model"]
    clip = blank(described["spec"], described["config"])
    accept_short_texts(clip.model)
    batches = [make_batch(clip, what, batch) for what in WHATS]
    (one,) = open_exports(path, [export]).values()
    require(one.backend.package, f"running {export}")
    before = _start()
    model = load_export(one, clip, threads)
    with torch.inference_mode():
        for some in batches:
            encode(model, some)
    return _taken(before)


def _start() -> int:
    """Bytes held now; the kernel forgets the peak so far."""
    gc.collect()
    FORGET.write_text("5")
    return _bytes("VmRSS")


def _taken(before: int) -> tuple[int, int]:
    gc.collect()
    return _bytes("VmRSS") - before, _bytes("VmHWM") - before


def _bytes(key: str) -> int:
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])
