# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""How far a recipe's model is from the float one on calibration data that it did not see.

    python benchmarks/heldout.py --on testbed --recipe w4a4-best-ptq --set rounding.samples=64

Choices between recipes are made with this, never on the images that the tables report. Prints the
cosine of the embeddings and the divergence of the image-text probabilities, on request also over
ImageNet's class texts (in float) and how often the nearest is the same; writes no table.
"""

from __future__ import annotations

import argparse
import time
import tomllib
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from beds import BEDS
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from torch import Tensor

from qkit.calibration.observe import set_mode
from qkit.clip.loading import load_model
from qkit.clip.model import logit_scale
from qkit.clip.zero_shot import class_embeddings, templates
from qkit.errors import QkitWarning
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.inputs import open_calibration
from qkit.pipeline.steps import Steps
from qkit.pipeline.student import Student, give_points, prepare
from qkit.progress import Silent, ignore
from qkit.recipe import load_recipe, parse_recipe

HELD, OFFSET = 160, 1000  # pairs of a kind, and what is added to the seed of their draw


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


@dataclass(frozen=True, slots=True)
class Held:
    """Pairs that the model did not see, and what the float model makes of them.

    Attributes:
        name: what they are called.
        batches: of images and texts.
        images: normalised float features ``(N, dim)``.
        texts: the same of texts.
    """

    name: str
    batches: list[Any]
    images: Tensor
    texts: Tensor


def embeddings(student: Student, batches: list[Any]) -> tuple[Tensor, Tensor]:
    """Normalised features of images and texts."""
    model: Any = student.model
    with torch.no_grad():
        images = torch.cat([F.normalize(model.encode_image(b.images), dim=-1) for b in batches])
        texts = torch.cat([F.normalize(model.encode_text(b.texts), dim=-1) for b in batches])
    return images, texts


def hold_out(student: Student, name: str, source: str, seed: int) -> Held:
    """Draw pairs and send them through the float model."""
    held = open_calibration(source, HELD, seed + OFFSET, skip_bad=False)
    batches = [b for b in held.batches(student.clip, 16) if b.images is not None]
    return Held(name, batches, *embeddings(student, batches))


def class_texts(student: Student) -> Tensor:
    """Embeddings ``(1000, dim)`` of ImageNet's classes."""
    with torch.no_grad():
        return class_embeddings(student.clip, IMAGENET_CLASSNAMES, templates(7), ignore)


def describe(student: Student, held: Held, classes: Tensor | None) -> str:
    """How near the quantized model comes."""
    images, texts = embeddings(student, held.batches)
    scale = logit_scale(student.model)
    near = [float((a * b).sum(-1).mean()) for a, b in ((images, held.images), (texts, held.texts))]
    kl, _ = divergence(scale * held.images @ held.texts.T, scale * images @ texts.T)
    said = f"{held.name}: image {near[0]:.4f} text {near[1]:.4f} KL {kl:.4f}"
    if classes is None:
        return said
    kl, same = divergence(scale * held.images @ classes.T, scale * images @ classes.T)
    return f"{said}, classes: KL {kl:.4f}, same {100 * same:.1f} %"


def divergence(wanted: Tensor, got: Tensor) -> tuple[float, float]:
    """KL of the probabilities by row, mean, nats; share of rows whose largest is the same."""
    expected, found = wanted.log_softmax(-1), got.log_softmax(-1)
    kl = float((expected.exp() * (expected - found)).sum(-1).mean())
    return kl, float((expected.argmax(-1) == found.argmax(-1)).float().mean())


def score(bed: str, table: dict[str, Any], seed: int, *, by_class: bool) -> str:
    """Calibrate with one draw and compare on another."""
    recipe = parse_recipe(table)
    student = prepare(load_model(BEDS[bed].model), copy=False)
    give_points(student, recipe)
    sources = BEDS[bed].kinds or {bed: BEDS[bed].calibration}
    held = [hold_out(student, name, source, seed) for name, source in sources.items()]
    classes = class_texts(student) if by_class else None
    data = open_calibration(BEDS[bed].calibration, recipe.samples, seed, skip_bad=False)
    start = time.perf_counter()
    Steps.of(recipe).run(student, data, Silent())
    spent = time.perf_counter() - start
    set_mode(student.model, Mode.QUANTIZE)
    return "; ".join([*(describe(student, one, classes) for one in held), f"in {spent:.0f} s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", choices=BEDS, default="testbed", help="model and data")
    parser.add_argument("--recipe", nargs="+", required=True, help="names or files")
    parser.add_argument("--set", nargs="*", default=[], help="KEY.KEY=VALUE; '-' removes")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--classes", action="store_true", help="over ImageNet's classes, too")
    args = parser.parse_args()
    warnings.simplefilter("ignore", QkitWarning)
    for name in args.recipe:
        for seed in range(args.seeds):
            table = changed(load_recipe(name).to_dict(), args.set)
            print(
                name,
                *args.set,
                f"seed {seed}:",
                score(args.on, table, seed, by_class=args.classes),
                flush=True,
            )


if __name__ == "__main__":
    main()
