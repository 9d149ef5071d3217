# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a step of P4Q costs, with and without what qkit does once and not again.

    python benchmarks/p4q_cost.py --on testbed

Image features kept or made anew at every step; class names packed behind what they share, or run
one by one over the whole context. Both ways give the same features but for float rounding; the
table says how near. The last line is a whole fine-tuning, all shots encoded once and all epochs,
from some shots and a few epochs that were run. Writes it into benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from common import markdown_table, write_section
from p4q_bed import TASKS, Task, student, train_on
from torch import Tensor

from qkit.calibration.observe import set_mode
from qkit.clip.model import ClipModel
from qkit.clip.prompt_layout import PromptLayout, lay_out
from qkit.clip.prompting import _run_padded, prompt_encoder, token_table
from qkit.data import Dataset, open_dataset, parse_source
from qkit.errors import QkitWarning
from qkit.nn.tensor_quantizer import Mode
from qkit.p4q.config import P4QConfig
from qkit.p4q.prompt import random_context
from qkit.pipeline.evaluate import EncodedImages, Evaluator
from qkit.pipeline.finetune.draw import draw_training
from qkit.pipeline.finetune.objective import Images
from qkit.progress import Silent

VECTORS, EPOCHS, REPEATS = 16, 50, 3
TRIED = (1, 3)  # epochs
GOAL = 15  # minutes on two cores


def timed(work: Callable[[], Tensor], repeats: int) -> tuple[float, Tensor]:
    """Least seconds of some calls, and what the last one gave."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        found = work()
        seconds.append(time.perf_counter() - start)
    return min(seconds), found


def text_step(encode: Callable[[Tensor], Tensor], context: Tensor) -> Tensor:
    """Features of all classes and the gradient of the vectors."""
    features = F.normalize(encode(context), dim=-1)
    features.square().sum().backward()
    return features.detach()


def text_ways(clip: ClipModel, dataset: Dataset) -> dict[str, Callable[[], Tensor]]:
    """One step of the text tower, both ways."""
    layout = lay_out(clip, dataset.classnames, VECTORS, "end", captions=False)
    width = token_table(clip.model).embedding_dim
    context = random_context(VECTORS, width, 0).requires_grad_()
    whole = PromptLayout(layout.tokens, layout.slots)
    ways = {
        "packed": prompt_encoder(clip.model, layout, shared=True),
        "one by one": partial(_run_padded, clip.model, whole),
    }
    return {name: partial(text_step, encode, context) for name, encode in ways.items()}


def image_ways(clip: ClipModel, dataset: Dataset, batch: int) -> dict[str, Callable[[], Tensor]]:
    """The image features of one step, both ways."""
    quiet = Evaluator(clip, (Mode.OFF, Mode.QUANTIZE), progress=Silent())
    samples = torch.arange(batch)
    anew = Images(quiet, dataset, None)
    kept = Images(quiet, dataset, anew.of(samples))
    return {
        name: lambda images=images: images.of(samples)[Mode.QUANTIZE]  # type: ignore[misc]
        for name, images in (("kept", kept), ("anew", anew))
    }


def whole(clip: ClipModel, dataset: Dataset, batch: int) -> float:
    """Seconds of a whole fine-tuning: all images once, and all epochs."""
    some = tuple(dataset.samples[:batch])
    start = time.perf_counter()
    evaluator = Evaluator(clip, (Mode.OFF, Mode.QUANTIZE), progress=Silent())
    found = evaluator.encode(replace(dataset, samples=some))
    encoding = (time.perf_counter() - start) * len(dataset) / len(some)
    rows = torch.arange(len(dataset)) % len(some)  # what images show costs nothing
    features = {mode: known[rows] for mode, known in found.features.items()}
    train = EncodedImages(dataset, features, dataset.samples, found.skipped)
    config = P4QConfig(batch_size=batch)
    spent = []
    for epochs in TRIED:
        start = time.perf_counter()
        train_on(clip, replace(config, epochs=epochs), train)
        spent.append(time.perf_counter() - start)
    few, more = TRIED
    epoch = (spent[1] - spent[0]) / (more - few)
    return encoding + spent[0] + (EPOCHS - few) * epoch


def way_rows(what: str, found: Mapping[str, tuple[float, Tensor]], steps: int) -> list[list[str]]:
    """Both ways of one thing; what is kept was made once, in the first epoch."""
    seconds = {name: each for name, (each, _) in found.items()}
    spent = {name: each * steps for name, each in seconds.items()}
    if "kept" in found:
        spent["kept"] += spent["anew"] / EPOCHS
    (first, mine), (second, theirs) = ((name, made) for name, (_, made) in found.items())
    near = F.cosine_similarity(mine, theirs, dim=-1).mean().item()
    said = {first: "", second: f"{spent[second] / spent[first]:.1f} times, cosine {near:.5f}"}
    return [
        [what, name, f"{seconds[name]:.3f}", f"{spent[name] / 60:.1f}", said[name]]
        for name in found
    ]


def table(task: Task, bits: str, kind: str, batch: int) -> str:
    """Seconds a step and for all epochs."""
    clip = student(task.bed, bits, 0, kind)
    set_mode(clip.model, Mode.QUANTIZE)
    clip.model.requires_grad_(False)
    dataset = draw_training(open_dataset(parse_source(task.train)), None, 0)
    steps = EPOCHS * -(-len(dataset) // batch)
    rows = []
    for what, ways in (
        (f"{len(dataset.classnames)} class texts and gradient", text_ways(clip, dataset)),
        (f"{batch} images, quantized and float", image_ways(clip, dataset, batch)),
    ):
        found = {name: timed(work, 1 if name == "anew" else REPEATS) for name, work in ways.items()}
        rows += way_rows(what, found, steps)
    minutes = whole(clip, dataset, batch) / 60
    rows.append([f"all, {EPOCHS} epochs", "", "", f"{minutes:.1f}", f"goal: at most {GOAL}"])
    heads = ["what", "way", "seconds a step", f"minutes for {steps} steps", "against the other"]
    return markdown_table(heads, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", choices=TASKS, default="demo", help="model and data")
    parser.add_argument("--bits", default="W8A8")
    parser.add_argument("--kind", default="fast", help="recipe: minmax, fast, best-ptq")
    parser.add_argument("--batch", type=int, default=128, help="images a step")
    parser.add_argument("--dry", action="store_true", help="print the table, do not write it")
    args = parser.parse_args()
    warnings.simplefilter("ignore", QkitWarning)
    body = table(TASKS[args.on], args.bits, args.kind, args.batch)
    print(body)
    if not args.dry:
        flags = f"--on {args.on} --bits {args.bits} --kind {args.kind} --batch {args.batch}"
        write_section(f"p4q-cost-{args.on}", f"python benchmarks/p4q_cost.py {flags}", body)


if __name__ == "__main__":
    main()
