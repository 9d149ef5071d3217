# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What P4Q gives back, against float models tuned on the same budget, and what each part is worth.

    python benchmarks/p4q.py --on testbed --jobs 1

16 images of each class. One calibration and one pass over the images a seed and bits serve all
lines of these bits. Results are kept as they come, one record a line and seed, so an interrupted
run goes on where it stopped. ``--only TEXT ...`` does the lines whose title holds one of these.
Writes its table into benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import markdown_table, mean_spread, run_units, write_section
from p4q_bed import TASKS, Task, encode, encode_shots, student, train_on
from p4q_lines import BITS, LINES, Line
from results import FOLDER, Results

from qkit.clip.model import ClipModel
from qkit.errors import QkitWarning
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.evaluate import EncodedImages, Evaluator, Scored, open_evaluation
from qkit.pipeline.finetune.gains import adapted

SEEDS, EPOCHS = 3, 50
MARGIN = 2.24  # points above the float prompt-tuned model, in the paper


def run_unit(
    task: Task, bits: str, seed: int, options: Mapping[str, Any], kept: Results, threads: int
) -> None:
    """All lines of one calibration; nothing where they are done."""
    wanted = [line for line in LINES if line.bits == bits and chosen(line, options)]
    missing = [line for line in wanted if not kept.has(line.key(options) | {"seed": seed})]
    if not missing:
        return
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore", QkitWarning)
    clip = student(task.bed, bits, seed, options["kind"])
    model, targets = task.bed.model, [open_evaluation(source) for source in task.evaluations]
    encoded = [encode(clip, bits, target, model) for target in targets]
    train, held = encode_shots(clip, bits, task, options["shots"], seed)
    encoded += [held] if held else []
    for line in missing:
        found = run_line(clip, line, train, encoded, seed, options["epochs"])
        kept.add(line.key(options) | {"seed": seed}, found)
        shown = [round(100 * value, 1) for value in found["top1"]]
        print(line.title, seed, shown, f"{found['seconds']:.0f} s", flush=True)


def chosen(line: Line, options: Mapping[str, Any]) -> bool:
    """Whether this line is asked for."""
    return any(text in line.title for text in options["only"])


def run_line(
    clip: ClipModel,
    line: Line,
    train: EncodedImages,
    encoded: Sequence[EncodedImages],
    seed: int,
    epochs: int,
) -> dict[str, Any]:
    """Train, if anything is to be, and evaluate; images to spare come last."""
    if line.config is None:
        scored = [Evaluator(clip, (Mode.QUANTIZE,)).score(one) for one in encoded]
        return {**_figures(scored), "seconds": 0.0, "added": 0.0}
    config = replace(line.config, seed=seed, epochs=epochs)
    start = time.perf_counter()
    tuned = train_on(clip, config, train)
    seconds = time.perf_counter() - start
    size = sum(p.numel() for p in clip.model.parameters())
    with tuned.learned.lent_to(clip) as served:
        evaluator = Evaluator(served, (Mode.QUANTIZE,))
        scored = [evaluator.score(adapted(one, tuned.learned, 16)) for one in encoded]
    return {**_figures(scored), "seconds": seconds, "added": tuned.learned.parameters / size}


def _figures(scored: Sequence[Scored]) -> dict[str, list[float]]:
    return {
        "top1": [float(one.metric.quantized["top1"]) for one in scored],
        "cosine": [one.matching[Mode.QUANTIZE] for one in scored],
    }


def table(task: Task, kept: Results, options: Mapping[str, Any]) -> str:
    """One line each: mean and spread over the seeds done so far."""
    rows = []
    for line in LINES:
        done = kept.of(line.key(options))
        if not done:
            continue
        count = len(task.titles)
        tops = [mean_spread(v) for v in zip(*(one["top1"] for one in done), strict=True)]
        cosines = [statistics.fmean(v) for v in zip(*(one["cosine"] for one in done), strict=True)]
        seconds = statistics.fmean(one["seconds"] for one in done)
        added = f"{100 * done[0]['added']:.2f}" if line.config else ""
        spent = f"{seconds:.0f}" if line.config else ""
        shown = [f"{cosine:.3f}" for cosine in cosines[:count]]
        rows.append([line.title, str(len(done)), *tops, *shown, added, spent])
    spare = ["images to spare"] if task.spare else []
    heads = [*task.titles, *spare, *(f"{title}, cosine" for title in task.titles)]
    return markdown_table(["model", "seeds", *heads, "added, %", "seconds"], rows)


def goals(kept: Results, options: Mapping[str, Any]) -> str:
    """The paper's margins, where both lines are there; on the first evaluation."""
    pairs = (
        ("W8A8 P4Q", "float prompt-tuned", f"goal: at least {MARGIN}"),
        ("W4A4 P4Q", "float zero-shot", "goal: above 0"),
    )
    by_title = {line.title: kept.of(line.key(options)) for line in LINES}
    said = []
    for mine, other, goal in pairs:
        if by_title[mine] and by_title[other]:
            means = [
                100 * statistics.fmean(one["top1"][0] for one in by_title[title])
                for title in (mine, other)
            ]
            said.append(f"* {mine} against {other}: {means[0] - means[1]:+.2f} points ({goal})")
    return "\n".join(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", choices=TASKS, default="demo", help="model and data")
    parser.add_argument("--out", type=Path, help="file of results")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="draws of each line")
    parser.add_argument(
        "--only", nargs="+", default=[""], help="lines whose title holds one of these"
    )
    parser.add_argument("--kind", default="fast", help="recipes: fast, best-ptq, best")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="passes over the shots")
    parser.add_argument("--shots", type=int, default=16, help="images of each class")
    parser.add_argument("--dry", action="store_true", help="print the table, do not write it")
    args = parser.parse_args()
    task = TASKS[args.on]
    kept = Results(args.out or FOLDER / f"p4q-{args.on}.jsonl")
    options = {key: getattr(args, key) for key in ("only", "kind", "epochs", "shots")}
    units = [(task, bits, seed, options) for seed in range(args.seeds) for bits in BITS]
    run_units(args.jobs, run_unit, units, kept)
    body = f"{table(task, kept, options)}\n\n{goals(kept, options)}".strip()
    if args.dry:
        print(body)
        return
    command = f"python benchmarks/p4q.py --on {args.on} --kind {args.kind} --jobs {args.jobs}"
    write_section(f"p4q-{args.on}", command, body)


if __name__ == "__main__":
    main()
