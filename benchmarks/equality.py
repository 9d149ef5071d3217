# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Does a run in integers answer as the simulated one that was evaluated?

    python benchmarks/equality.py --on testbed

Images and classes of the bed's classification through one run as int8, as exact integers, and
simulated, without gradients as everything but training runs, and with them. Writes its table into
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from beds import BEDS, Bed
from common import markdown_table, write_section
from torch import Tensor

import qkit
from qkit.clip.model import ClipModel
from qkit.clip.zero_shot import class_embeddings, templates
from qkit.data import Dataset, image_batches
from qkit.errors import QkitWarning
from qkit.pipeline.evaluate import open_evaluation
from qkit.progress import ignore

RUNS = {
    "w8a8-fast": "w8a8-fast",
    "w8a8-minmax, all static": None,
    "w4a8-fast": "w4a8-fast",
    "w4a4-fast": "w4a4-fast",
}
PAIRS = (
    ("int8", "exact"),
    ("int8", "simulated"),
    ("int8", "simulated with gradients"),
)


class Found(NamedTuple):
    """Unit features ``(N, dim)`` of images, and their classes by name, ``(N,)``."""

    images: Tensor
    named: Tensor


def store(bed: Bed, recipe: str | None, path: Path) -> None:
    """Calibrate and save; no recipe is all inputs static at 8 bits."""
    method = None if recipe else "minmax"
    few = qkit.Overrides(samples=128)
    run = qkit.calibrate(bed.model, bed.calibration, recipe=recipe, method=method, overrides=few)
    run.save(path)


def loaded(path: Path, name: str) -> ClipModel:
    """The run as it is to compute."""
    runtime = name if name in ("int8", "exact") else None
    return qkit.load(path, runtime=runtime).clip


def encoded(clip: ClipModel, dataset: Dataset, gradients: bool) -> Found:
    """All images, and the classes that the model's own text tower names."""
    batches = image_batches(dataset.samples, clip.preprocess, 20)
    with torch.set_grad_enabled(gradients):
        parts = [clip.model.encode_image(batch.pixels).detach() for batch in batches]
    unit = F.normalize(torch.cat(parts), dim=-1)
    classes = class_embeddings(clip, dataset.classnames, templates(7)[:1], ignore)
    return Found(unit, (unit @ classes.T).argmax(1))


def rows(title: str, found: dict[str, Found], dataset: Dataset) -> list[list[str]]:
    """A line for each pair."""
    labels = torch.tensor([sample.label for sample in dataset.samples])
    lines = []
    for pair in PAIRS:
        a, b = (found[name] for name in pair)
        cosines = (a.images * b.images).sum(-1)
        same = float((a.named == b.named).float().mean())
        top1 = [f"{100 * float((f.named == labels).float().mean()):.1f}" for f in (a, b)]
        near = [f"{float(cosines.mean()):.5f}", f"{float(cosines.min()):.5f}"]
        lines.append([title, " against ".join(pair), f"{100 * same:.1f}", *near, *top1])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", choices=BEDS, default="demo", help="model and data")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", QkitWarning)
    bed, lines = BEDS[args.on], []
    dataset = open_evaluation(bed.evaluations[0])
    for title in args.runs:
        recipe = RUNS[title]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "run"
            store(bed, recipe, path)
            names = dict.fromkeys(name for pair in PAIRS for name in pair)
            found = {
                name: encoded(loaded(path, name), dataset, "gradients" in name) for name in names
            }
        lines += rows(title, found, dataset)
        print(*lines[-3:], sep="\n", flush=True)
    heads = ["run", "models", "same class, %", "cosine", "least", "top-1 of one", "of the other"]
    command = f"python benchmarks/equality.py --on {args.on}"
    write_section(f"equality-{args.on}", command, markdown_table(heads, lines))


if __name__ == "__main__":
    main()
