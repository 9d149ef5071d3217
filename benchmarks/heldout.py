# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""How far a recipe's model is from the float one on calibration data that it did not see.

    python benchmarks/heldout.py --on testbed --recipe w4a4-best-ptq --set rounding.samples=64

Choices between recipes are made with this, never on the images that the tables report. Prints the
cosine of the embeddings and the divergence of the image-text probabilities; writes no table.
"""

from __future__ import annotations

import argparse
import time
import tomllib
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from beds import BEDS
from torch import Tensor

from qkit.calibration.observe import set_mode
from qkit.clip.loading import load_model
from qkit.clip.model import logit_scale
from qkit.errors import QkitWarning
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.inputs import open_calibration
from qkit.pipeline.steps import Steps
from qkit.pipeline.student import Student, give_points, prepare
from qkit.progress import Silent
from qkit.recipe import load_recipe, parse_recipe

HELD, OFFSET = 96, 1000  # pairs, and what is added to the seed of their draw


def changed(table: dict[str, Any], changes: list[str]) -> dict[str, Any]:
    """A recipe's table with changes such as ``rounding.samples=64`` or ``rule.0.input.bits=3``."""
    for change in changes:
        path, _, value = change.partition("=")
        *parents, key = path.split(".")
        at: Any = table
        for parent in parents:
            at = at[int(parent)] if isinstance(at, list) else at.setdefault(parent, {})
        if value == "-":
            at.pop(key, None)
        else:
            at[key] = tomllib.loads(f"value = {value}")["value"]
    return table


def embeddings(student: Student, batches: list[Any]) -> tuple[Tensor, Tensor]:
    """Normalised features of images and texts."""
    model: Any = student.model
    with torch.no_grad():
        images = torch.cat([F.normalize(model.encode_image(b.images), dim=-1) for b in batches])
        texts = torch.cat([F.normalize(model.encode_text(b.texts), dim=-1) for b in batches])
    return images, texts


def score(bed: str, table: dict[str, Any], seed: int) -> str:
    """Calibrate with one draw and compare on another."""
    recipe = parse_recipe(table)
    student = prepare(load_model(BEDS[bed].model), copy=False)
    give_points(student, recipe)
    held = open_calibration(BEDS[bed].calibration, HELD, seed + OFFSET, skip_bad=False)
    batches = [b for b in held.batches(student.clip, 16) if b.images is not None]
    float_images, float_texts = embeddings(student, batches)
    data = open_calibration(BEDS[bed].calibration, recipe.samples, seed, skip_bad=False)
    start = time.perf_counter()
    Steps.of(recipe).run(student, data, Silent())
    spent = time.perf_counter() - start
    set_mode(student.model, Mode.QUANTIZE)
    images, texts = embeddings(student, batches)
    scale = logit_scale(student.model)
    wanted = (scale * float_images @ float_texts.T).log_softmax(-1)
    got = (scale * images @ texts.T).log_softmax(-1)
    kl = float((wanted.exp() * (wanted - got)).sum(-1).mean())
    near = [
        float((a * b).sum(-1).mean()) for a, b in ((images, float_images), (texts, float_texts))
    ]
    return f"image {near[0]:.4f} text {near[1]:.4f} KL {kl:.4f} in {spent:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", choices=BEDS, default="testbed", help="model and data")
    parser.add_argument("--recipe", nargs="+", required=True, help="names or files")
    parser.add_argument("--set", nargs="*", default=[], help="KEY.KEY=VALUE; '-' removes")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    warnings.simplefilter("ignore", QkitWarning)
    for name in args.recipe:
        for seed in range(args.seeds):
            table = changed(load_recipe(name).to_dict(), args.set)
            print(name, *args.set, f"seed {seed}:", score(args.on, table, seed), flush=True)


if __name__ == "__main__":
    main()
