# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Which step sizes and losses P4Q learns best with, on images of its classes that it does not see.

    python benchmarks/p4q_rate.py --on testbed --epochs 10

Learns from 16 images a class and tries it on those that the draw leaves over, so that nothing is
chosen on the images that the tables of ``p4q.py`` report. ``--only TEXT`` does the trials whose
title holds it. Results are kept as they come. Writes its table into benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from common import markdown_table, mean_spread, run_units, write_section
from p4q_bed import FLOAT, TASKS, Task, encode_shots, student, train_on
from results import FOLDER, Results

from qkit.clip.model import ClipModel
from qkit.errors import QkitWarning
from qkit.nn.tensor_quantizer import Mode
from qkit.p4q.config import PAPER_RATE, AdapterConfig, LossConfig, P4QConfig, PromptConfig
from qkit.pipeline.evaluate import EncodedImages, Evaluator
from qkit.pipeline.finetune.gains import adapted

SHOTS = 16
FACTORS = (1, 10, 30, 100, 300, 1000)
ADAPTER_RATES = (3e-4, 1e-3, 3e-3)
RATIOS = (0.2, 0.5)
DISTILL = (0.1, 0.3, 1.0, 3.0)
TEMPERATURES = (1.0, 2.0)
PHRASE = "a photo of a"


def trials(batch_size: int = 128) -> Iterator[tuple[str, P4QConfig | None]]:
    """What is tried, and what a table calls it."""
    full = P4QConfig(batch_size=batch_size)
    yield "nothing learned", None
    for factor in FACTORS:
        prompt = PromptConfig(rate=PAPER_RATE * batch_size * factor)
        phrase = replace(prompt, init=PHRASE, vectors=4)
        yield f"prompt x{factor}", replace(full, prompt=prompt, adapter=None)
        yield f"prompt x{factor} from a phrase", replace(full, prompt=phrase, adapter=None)
        yield f"both x{factor}", replace(full, prompt=prompt)
        yield f"both x{factor} from a phrase", replace(full, prompt=phrase)
    for ratio in RATIOS:
        for rate in ADAPTER_RATES:
            adapter = AdapterConfig(ratio=ratio, rate=rate)
            title = f"ratio {ratio:g}, rate {rate:g}"
            yield f"adapter, {title}", replace(full, prompt=None, adapter=adapter)
            for factor in FACTORS[1:]:
                prompt = PromptConfig(rate=PAPER_RATE * batch_size * factor)
                yield f"both x{factor}, {title}", replace(full, prompt=prompt, adapter=adapter)
    for loss in losses():
        title = f"distillation {loss.distill:g}, temperature {loss.temperature:g}"
        yield f"adapter, {title}", replace(full, prompt=None, loss=loss)
        yield f"both, {title}", replace(full, loss=loss)


def losses() -> Iterator[LossConfig]:
    """How much the teacher counts, at which temperature; the default is what all else learns by."""
    yield LossConfig(distill=0.0)
    every = itertools.product(DISTILL, TEMPERATURES)
    found = (LossConfig(distill=weight, temperature=t) for weight, t in every)
    yield from (loss for loss in found if loss != LossConfig())


def in_float(config: P4QConfig) -> P4QConfig:
    """The same for a float model, whose adapter is in float, too."""
    if config.adapter is None:
        return config
    return replace(config, adapter=replace(config.adapter, bits=None))


def run_unit(
    task: Task, bits: str, seed: int, options: Mapping[str, Any], kept: Results, threads: int
) -> None:
    """All trials of one calibration; nothing where they are done."""
    fixed = {"bits": bits, "seed": seed, "epochs": options["epochs"]}
    missing = [
        (title, config)
        for title, config in trials()
        if title in options["only"] and not kept.has({"trial": title, **fixed})
    ]
    if not missing:
        return
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore", QkitWarning)
    clip = student(task.bed, bits, seed, "fast")
    train, held = encode_shots(clip, bits, task, SHOTS, seed)
    assert held is not None, f"{task.train} has no images to spare"
    for title, config in missing:
        chosen = config and replace(config, seed=seed, epochs=options["epochs"])
        found = run_trial(clip, bits, chosen, train, held)
        kept.add({"trial": title, **fixed}, found)
        print(bits, title, f"{100 * found['top1']:.1f}", f"{found['seconds']:.0f} s", flush=True)


def run_trial(
    clip: ClipModel, bits: str, config: P4QConfig | None, train: EncodedImages, held: EncodedImages
) -> dict[str, Any]:
    """Learn and try it."""
    start = time.perf_counter()
    if config is None:
        return {**score(clip, held), "seconds": 0.0, "loss": None}
    tuned = train_on(clip, in_float(config) if bits == FLOAT else config, train)
    seconds = time.perf_counter() - start
    with tuned.learned.lent_to(clip) as served:
        found = score(served, adapted(held, tuned.learned, 16))
    return {**found, "seconds": seconds, "loss": tuned.curve[-1][0]}


def score(clip: ClipModel, held: EncodedImages) -> dict[str, float]:
    """Top-1, a share, and the mean cosine of images and their classes."""
    found = Evaluator(clip, (Mode.QUANTIZE,)).score(held)
    top1 = float(found.metric.quantized["top1"])
    return {"top1": top1, "cosine": found.matching[Mode.QUANTIZE]}


def table(kept: Results, units: list[tuple[str, int]]) -> str:
    """One line a trial, a column each bits and number of epochs; seeds in one cell."""
    rows = []
    for title, _ in trials():
        done = [
            [one["top1"] for one in kept.of({"trial": title, "bits": bits, "epochs": epochs})]
            for bits, epochs in units
        ]
        if any(done):
            rows.append([title, *(mean_spread(found) if found else "" for found in done)])
    heads = [f"{bits}, {epochs} epochs" for bits, epochs in units]
    return markdown_table(["learned", *heads], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", choices=TASKS, default="testbed", help="model and data")
    parser.add_argument("--bits", nargs="+", default=["W4A4", FLOAT])
    parser.add_argument("--epochs", type=int, default=10, help="passes over the shots")
    parser.add_argument("--seeds", type=int, default=1, help="draws of each trial")
    parser.add_argument("--only", nargs="+", help="titles of trials; by default all")
    parser.add_argument("--dry", action="store_true", help="print the table, do not write it")
    args = parser.parse_args()
    kept = Results(FOLDER / f"p4q-rate-{args.on}.jsonl")
    only = args.only or [title for title, _ in trials()]
    options = {"epochs": args.epochs, "only": only}
    units = [(TASKS[args.on], b, seed, options) for seed in range(args.seeds) for b in args.bits]
    run_units(1, run_unit, units, kept)
    columns = {(one["bits"], one["epochs"]) for one in kept.of({})}
    body = table(kept, sorted(columns))
    print(body)
    if not args.dry:
        write_section(f"p4q-rate-{args.on}", f"python benchmarks/p4q_rate.py --on {args.on}", body)


if __name__ == "__main__":
    main()
