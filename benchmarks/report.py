# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What the report costs on ViT-L-14 (random weights): time against a float forward, and memory.

    python benchmarks/report.py

The report of one calibrated model: both passes over 64 images and 64 texts, the closer look at a
few of them, and the words. Float forwards over the same 64 images and texts are timed before and
after it, in batches of 16. Memory is what the process takes at most above the loaded, calibrated
model. Writes its table into benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from common import markdown_table, write_section
from cost import batches, forward_all, memory, reset_peak, timed

from qkit.calibration.install import install
from qkit.calibration.observe import Batch, observe, set_mode
from qkit.calibration.registry import create_calibrator
from qkit.calibration.session import open_session
from qkit.clip.loading import load_model
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.measure import ALONE_EVERY, DIAGNOSED, MEASURE_BATCH, MEASURED
from qkit.pipeline.student import give_points, prepare
from qkit.recipe import load_recipe
from qkit.report.build import Known, build_reports
from qkit.report.diagnose import diagnose
from qkit.report.measure import measure

FLOAT_BATCH = 16


def silent(done: int, /, **figures: float) -> None:
    """Shows nothing."""


def resplit(data: list[Batch], size: int) -> list[Batch]:
    """The same samples in batches of ``size``."""
    images, texts = (torch.cat(parts).split(size) for parts in zip(*data, strict=True))
    return [Batch(i, t) for i, t in zip(images, texts, strict=True)]


def run(name: str, recipe: str) -> list[list[str]]:
    """Time each step of one report."""
    student = prepare(load_model(name), copy=False)
    data = batches(student.clip, MEASURED, FLOAT_BATCH)
    parts = (student.model, student.layers, student.blocks)
    before, _ = timed(lambda: forward_all(student.model, data))
    give_points(student, load_recipe(recipe))
    observe(student.model, resplit(data, MEASURE_BATCH)[:4], silent)
    session = open_session(student.model, student.layers)
    scales = create_calibrator("minmax", {}).calibrate(session, silent)
    install(student.model, scales)
    forward_all(student.model, resplit(data, MEASURE_BATCH)[:1])  # weights are rounded once
    reset_peak()
    base = memory("VmRSS")
    passes, found = timed(
        lambda: measure(*parts, resplit(data, MEASURE_BATCH), silent, every=ALONE_EVERY)
    )
    look, closer = timed(lambda: diagnose(*parts, resplit(data, DIAGNOSED)[0], found))
    known = Known(session.seen, student.macs, found, closer)
    words, _ = timed(lambda: build_reports(student.layers, student.blocks, known))
    peak = memory("VmHWM") - base
    set_mode(student.model, Mode.OFF)
    after, _ = timed(lambda: forward_all(student.model, data))
    forward, total = statistics.mean((before, after)), passes + look + words
    return [
        [f"float forward, {MEASURED} images + {MEASURED} texts", f"{forward:.1f} s", ""],
        ["both passes", f"{passes:.1f} s", ""],
        [f"closer look at {DIAGNOSED} of them", f"{look:.1f} s", ""],
        ["histograms and words", f"{words:.1f} s", ""],
        ["whole report against the float forward", f"{total / forward:.2f}x", "at most 3x"],
        ["memory above the calibrated model", f"{peak:.0f} MB", "bounded"],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-L-14:random")
    parser.add_argument("--recipe", default="w4a4-mse")
    args = parser.parse_args()
    rows = run(args.model, args.recipe)
    for row in rows:
        print(*row, sep=" | ")
    command = f"python benchmarks/report.py --model {args.model} --recipe {args.recipe}"
    write_section("report", command, markdown_table(["what", "measured", "goal"], rows))


if __name__ == "__main__":
    main()
