# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""How much memory a model takes, measured in a process of its own."""

from __future__ import annotations

import gc
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from qkit.pipeline.bench.contenders import (
    BF16,
    INT8,
    encode,
    float_model,
    integer_run,
    make_batch,
)

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def memory_of(model: str, path: Path, batch: int, threads: int) -> tuple[int, int] | None:
    """Bytes held after one batch of each tower and the most at once, above the imports.

    Args:
        model: "fp32", "bf16" or "int8".
        path: run folder.
        batch: images or texts at once.
        threads: for torch.

    Returns:
        None where the system does not tell (it is asked for in Linux's way).
    """
    if not STATUS.exists() or not FORGET.exists():
        return None
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as fresh:
        return fresh.submit(_measure, model, path, batch, threads).result()


def _measure(model: str, path: Path, batch: int, threads: int) -> tuple[int, int]:
    torch.set_num_threads(threads)
    gc.collect()
    FORGET.write_text("5")  # the kernel forgets the peak so far
    before = _bytes("VmRSS")
    dtype = torch.bfloat16 if model == BF16 else torch.float32
    clip = integer_run(path).clip if model == INT8 else float_model(path, dtype)
    with torch.inference_mode():
        for what in ("image", "full texts"):
            encode(clip.model, make_batch(clip, what, batch))
    gc.collect()
    return _bytes("VmRSS") - before, _bytes("VmHWM") - before


def _bytes(key: str) -> int:
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])
