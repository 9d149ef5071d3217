# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Accuracy by bits and calibrator on the testbed, over several draws of calibration data.

    python benchmarks/accuracy.py --out accuracy.json

One observing pass a seed and granularity serves all bits and methods. Results are kept as they
come, so an interrupted run goes on where it stopped. Writes its table into benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import TESTBED, markdown_table, mean_spread, write_section

from qkit.calibration.observe import install
from qkit.calibration.registry import create_calibrator
from qkit.calibration.session import CalibrationSession
from qkit.clip.loading import load_model
from qkit.errors import QkitWarning
from qkit.graph.layers import list_points
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.calibrate import collect
from qkit.pipeline.evaluate import Evaluator
from qkit.pipeline.inputs import open_calibration
from qkit.pipeline.student import Student, give_points, prepare
from qkit.progress import Silent
from qkit.recipe import Recipe, load_recipe, override
from qkit.recipe.overrides import Overrides

METHODS = ("minmax", "percentile", "mse")
BITS = {"W8A8": (8, 8), "W6A6": (6, 6), "W4A8": (4, 8), "W4A4": (4, 4)}
RECIPES = {
    "recipe": "shipped recipes: per tensor, the MLP's second linear per token",
    "static": "all inputs static, per tensor (no recipe, `--bits N`)",
    "token": "all inputs per token (`--act-granularity token`)",
}
PLAN = {"recipe": tuple(BITS), "static": ("W8A8", "W4A4"), "token": ("W4A4",)}
BOTH = (Mode.OFF, Mode.QUANTIZE)
EVALUATIONS = ("classes:imagenet-sample", "captions:flickr8k/test.csv")
SAMPLES = 128


def base_recipe(kind: str) -> Recipe:
    """The recipe that a row's bits and method are applied to."""
    if kind == "recipe":
        return load_recipe("w8a8-mse")
    granularity = "token" if kind == "token" else None
    return override(Recipe(), Overrides(act_granularity=granularity))


def located(source: str) -> str:
    """A testbed source with its full path."""
    kind, _, path = source.partition(":")
    return f"{kind}:{TESTBED / path}"


def runs(student: Student, seed: int, done: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the figures of every combination that ``done`` lacks, one observing pass a kind."""
    calib = open_calibration(located("captions:flickr8k/calib.csv"), SAMPLES, seed, skip_bad=False)
    for kind, bit_names in PLAN.items():
        wanted = [(b, m) for b in bit_names for m in METHODS]
        wanted = [(b, m) for b, m in wanted if f"{kind}/{b}/{m}/{seed}" not in done]
        if not wanted:
            continue
        recipe = base_recipe(kind)
        give_points(student, recipe)
        start = time.perf_counter()
        session = collect(student, calib, 16, Silent())
        observed = time.perf_counter() - start
        for bit_name, method in wanted:
            seconds = quantize(student, recipe, bit_name, method, session)
            figures = evaluate(student, (Mode.QUANTIZE,) if "float" in done else BOTH)
            key = f"{kind}/{bit_name}/{method}/{seed}"
            yield key, {"figures": figures, "seconds": observed + seconds}


def quantize(
    student: Student, recipe: Recipe, bits: str, method: str, session: CalibrationSession
) -> float:
    """Choose and install scales at other bits from statistics seen before; returns seconds."""
    weight_bits, act_bits = BITS[bits]
    flags = Overrides(weight_bits=weight_bits, act_bits=act_bits, method=method)
    give_points(student, override(recipe, flags))
    specs = {p.point: p.spec for p in list_points(student.model) if not p.spec.dynamic}
    start = time.perf_counter()
    calibrator = create_calibrator(method, {})
    again = replace(session, points=specs)
    install(student.model, calibrator.calibrate(again, lambda done: None))
    return time.perf_counter() - start


def evaluate(student: Student, modes: tuple[Mode, ...]) -> list[dict[str, Any]]:
    """Figures of the quantized model (and of the float one if asked) on the evaluation data."""
    evaluator = Evaluator(student.clip, modes)
    metrics = [evaluator.run(located(source)) for source in EVALUATIONS]
    return [{"float": m.float, "quantized": m.quantized, "agreement": m.agreement} for m in metrics]


def table(results: Mapping[str, Any], seeds: int) -> str:
    """One line per combination: mean and spread over the seeds, change against float."""
    base = results["float"]
    header = [
        "inputs",
        "bits",
        "method",
        "ImageNet-sample top-1",
        "change",
        "image to text R@1",
        "text to image R@1",
        "seconds",
    ]
    floats = [base[0]["top1"], base[1]["image_to_text"]["r1"], base[1]["text_to_image"]["r1"]]
    rows = [
        [
            "",
            "float",
            "",
            *(f"{100 * floats[0]:.1f}", ""),
            *(f"{100 * f:.1f}" for f in floats[1:]),
            "",
        ]
    ]
    for kind, bit_names in PLAN.items():
        for bits in bit_names:
            for method in METHODS:
                found = [results[f"{kind}/{bits}/{method}/{s}"] for s in range(seeds)]
                rows.append([kind, bits, method, *cells(found, floats[0])])
    notes = "\n".join(f"* `{kind}`: {text}" for kind, text in RECIPES.items())
    return f"{markdown_table(header, rows)}\n\n{notes}"


def cells(found: list[Any], float_top1: float) -> list[str]:
    """Figures of one combination over its seeds."""
    top1 = [f["figures"][0]["quantized"]["top1"] for f in found]
    both = [f["figures"][1]["quantized"] for f in found]
    return [
        mean_spread(top1),
        f"{100 * (sum(top1) / len(top1) - float_top1):+.1f}",
        mean_spread([b["image_to_text"]["r1"] for b in both]),
        mean_spread([b["text_to_image"]["r1"] for b in both]),
        mean_spread([f["seconds"] for f in found], scale=1.0),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("accuracy.json"))
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    warnings.simplefilter("ignore", QkitWarning)
    results: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    student = prepare(load_model(f"local-dir:{TESTBED / 'vit-tiny-lit'}"), copy=False)
    for seed in range(args.seeds):
        for key, value in runs(student, seed, results):
            results[key] = value
            results.setdefault("float", [figures["float"] for figures in value["figures"]])
            args.out.write_text(json.dumps(results))
            print(key, value["figures"][0]["quantized"], f"{value['seconds']:.1f} s", flush=True)
    command = f"python benchmarks/accuracy.py --seeds {args.seeds}"
    write_section("accuracy", command, table(results, args.seeds))


if __name__ == "__main__":
    main()
