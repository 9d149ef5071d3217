# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What calibration and fake quantization cost on ViT-B-32 (random weights), as ratios.

    python benchmarks/cost.py

Calibration: statistics for all three methods in one pass over 128 images and 128 texts, plus all
three methods' scales, against the float forward over the same data; and the memory it takes above
the loaded model. Forward: fake-quantized against float, batch 16, in turn. Writes its table into
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import copy
import gc
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from common import markdown_table, write_section
from torch import Tensor, nn

from qkit.calibration.install import install
from qkit.calibration.observe import Batch, observe
from qkit.calibration.registry import create_calibrator
from qkit.calibration.session import CalibrationSession, open_session
from qkit.clip.loading import load_model
from qkit.clip.model import ClipModel
from qkit.clip.zero_shot import sample_prompts
from qkit.pipeline.student import Student, give_points, prepare
from qkit.recipe import Recipe

METHODS = ("minmax", "percentile", "mse")


def batches(clip: ClipModel, count: int, size: int) -> list[Batch]:
    """Smooth random images in CLIP's normalised range, and prompts."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 3, 14, 14, generator=generator)
    pixels = nn.functional.interpolate(coarse, size=224, mode="bilinear")
    tokens = clip.tokenizer(sample_prompts(count, 0))
    return [Batch(p, t) for p, t in zip(pixels.split(size), tokens.split(size), strict=True)]


def forward_all(model: Any, data: list[Batch]) -> None:
    """Run both encoders over everything."""
    with torch.no_grad():
        for images, texts in data:
            model.encode_image(images)
            model.encode_text(texts)


def statistics_and_scales(
    student: Student, data: list[Batch]
) -> tuple[CalibrationSession, dict[str, float]]:
    """One observing pass and three methods' scales; seconds by step."""
    give_points(student, Recipe())
    seconds: dict[str, float] = {}
    seconds["observe"], session = timed(lambda: _observe(student, data))
    for method in METHODS:
        calibrator = create_calibrator(method, {})
        seconds[method], _ = timed(lambda c=calibrator: c.calibrate(session, lambda done: None))
    return session, seconds


def _observe(student: Student, data: list[Batch]) -> CalibrationSession:
    observe(student.model, data, lambda done: None)
    return open_session(student.model, student.layers)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result of ``work``."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def interleaved(
    first: Callable[[], Any], second: Callable[[], Any], rounds: int
) -> list[tuple[float, float]]:
    """Seconds of the two in turn, after one warm-up of each."""
    first(), second()
    return [(timed(first)[0], timed(second)[0]) for _ in range(rounds)]


def reset_peak() -> None:
    """Let the kernel forget the peak so far (Linux); elsewhere the peak is an upper bound."""
    gc.collect()
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def memory(key: str) -> float:
    """Resident memory of this process in MB: VmRSS now, VmHWM at most since the last reset."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    line = next(line for line in status.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1e3


def extra_memory(threads: int) -> float:
    """MB that statistics and scales take above the loaded model; run it in a fresh process."""
    torch.set_num_threads(threads)
    clip = load_model("ViT-B-32:random")
    data = batches(clip, 128, 16)
    student = prepare(clip, copy=False)
    reset_peak()
    before = memory("VmRSS")
    statistics_and_scales(student, data)
    return memory("VmHWM") - before


def calibration_rows(rounds: int, threads: int) -> list[list[str]]:
    """Time and memory of statistics and scales, against the float forward."""
    clip = load_model("ViT-B-32:random")
    data = batches(clip, 128, 16)
    original = copy.deepcopy(clip.model)
    student = prepare(clip, copy=False)
    forward_all(original, data[:1])
    statistics_and_scales(student, data[:1])
    pairs = []
    for _ in range(rounds):
        forward = timed(lambda: forward_all(original, data))[0]
        _, seconds = statistics_and_scales(student, data)
        pairs.append((forward, seconds))
    middle = sorted(pairs, key=lambda pair: sum(pair[1].values()) / pair[0])[len(pairs) // 2]
    forward, seconds = middle
    total = sum(seconds.values())
    steps = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        peak = fresh.submit(extra_memory, threads).result()
    return [
        ["float forward, 128 images + 128 texts", f"{forward:.2f} s", ""],
        [f"statistics and scales of all three ({steps})", f"{total:.2f} s", "at most 2.5x"],
        ["ratio to the float forward", f"{total / forward:.2f}x", "at most 2.5x"],
        ["memory above the loaded model", f"{peak:.0f} MB", "below 1500 MB"],
    ]


def forward_rows(rounds: int) -> list[list[str]]:
    """Fake-quantized forward against the float one, each tower, batch 16."""
    clip = load_model("ViT-B-32:random")
    data = batches(clip, 16, 16)
    original: Any = copy.deepcopy(clip.model)
    student = prepare(clip, copy=False)
    session, _ = statistics_and_scales(student, data)
    install(student.model, create_calibrator("minmax", {}).calibrate(session, lambda done: None))
    quantized: Any = student.model
    rows = []
    for tower, x in (("image", data[0].images), ("text", data[0].texts)):
        assert isinstance(x, Tensor)
        with torch.no_grad():
            encode = (getattr(original, f"encode_{tower}"), getattr(quantized, f"encode_{tower}"))
            pairs = interleaved(
                lambda e=encode, x=x: e[0](x), lambda e=encode, x=x: e[1](x), rounds
            )
        ratio = statistics.median(b / a for a, b in pairs)
        middle = statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)
        shown = f"{1e3 * middle[0]:.0f} ms float, {1e3 * middle[1]:.0f} ms fake-quantized"
        rows.append([f"{tower} tower, batch 16: {shown}", f"{ratio:.2f}x", "at most 1.3x"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = forward_rows(3 * args.rounds) + calibration_rows(args.rounds, args.threads)
    for row in rows:
        print(*row, sep=" | ")
    command = f"python benchmarks/cost.py --rounds {args.rounds} --threads {args.threads}"
    write_section("cost", command, markdown_table(["what", "measured", "goal"], rows))


if __name__ == "__main__":
    main()
