# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Accuracy by bits and calibrator, over several draws of calibration data.

    python benchmarks/accuracy.py --on demo --jobs 2
    python benchmarks/accuracy.py --on testbed --jobs 2

One observing pass a seed and granularity serves all bits and methods. Results are kept as they
come, so an interrupted run goes on where it stopped. Writes its table into benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from beds import BEDS, Bed
from common import markdown_table, mean_spread, run_units, write_section

from qkit.calibration.install import install
from qkit.calibration.registry import create_calibrator
from qkit.calibration.session import CalibrationSession
from qkit.clip.loading import load_model
from qkit.errors import QkitWarning
from qkit.graph.layers import list_points
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.evaluate import Evaluator
from qkit.pipeline.inputs import open_calibration
from qkit.pipeline.steps import collect
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
    "full": "all inputs static, attention's operands at the same bits (`--attn-bits N`)",
}
SEEDS = {"recipe": 3, "static": 1, "token": 1, "full": 3}
PLANS = {
    "demo": {
        "recipe": tuple(BITS),
        "static": ("W8A8", "W4A4"),
        "token": ("W4A4",),
        "full": ("W8A8", "W4A4"),
    },
    "testbed": {"recipe": tuple(BITS), "static": ("W8A8",), "token": ("W4A4",)},
}
FIRST = "recipe/W8A8/minmax/0"  # the float model is evaluated beside it
BOTH = (Mode.OFF, Mode.QUANTIZE)
SAMPLES = 128


def base_recipe(kind: str) -> Recipe:
    """The recipe that a row's bits and method are applied to."""
    if kind == "recipe":
        return load_recipe("w8a8-mse")
    granularity = "token" if kind == "token" else None
    return override(Recipe(), Overrides(act_granularity=granularity))


def runs(
    bed: Bed, student: Student, kind: str, seed: int, done: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Yield the figures of every combination that ``done`` lacks, after one observing pass."""
    pairs = [(bits, method) for bits in PLANS[bed.name][kind] for method in METHODS]
    wanted = {f"{kind}/{b}/{m}/{seed}": (b, m) for b, m in pairs}
    missing = {key: pair for key, pair in wanted.items() if key not in done}
    if not missing:
        return
    recipe, session, _ = observe(bed, student, kind, seed)
    for key, (bits, method) in missing.items():
        quantize(student, recipe, kind, bits, method, session)
        modes = BOTH if key == FIRST else (Mode.QUANTIZE,)
        yield key, {"figures": evaluate(bed, student, modes)}


def observe(
    bed: Bed, student: Student, kind: str, seed: int
) -> tuple[Recipe, CalibrationSession, float]:
    """One observing pass over a seed's draw: recipe, statistics and seconds."""
    calib = open_calibration(bed.calibration, SAMPLES, seed, skip_bad=False)
    recipe = base_recipe(kind)
    give_points(student, recipe)
    start = time.perf_counter()
    session = collect(student, calib, 16, Silent())
    return recipe, session, time.perf_counter() - start


def timings(bed: Bed) -> dict[str, float]:
    """Seconds of observing and choosing scales, by kind, bits and method, one after the other."""
    student = prepare(load_model(bed.model), copy=False)
    seconds: dict[str, float] = {}
    for kind, bit_names in PLANS[bed.name].items():
        recipe, session, observed = observe(bed, student, kind, seed=0)
        for bits, method in itertools.product(bit_names, METHODS):
            chosen = quantize(student, recipe, kind, bits, method, session)
            seconds[f"{kind}/{bits}/{method}"] = observed + chosen
    return seconds


def quantize(
    student: Student,
    recipe: Recipe,
    kind: str,
    bits: str,
    method: str,
    session: CalibrationSession,
) -> float:
    """Choose and install scales at other bits from statistics seen before; returns seconds."""
    weight_bits, act_bits = BITS[bits]
    flags = Overrides(weight_bits=weight_bits, act_bits=act_bits, method=method)
    if kind == "full":
        flags = replace(flags, attn_bits=act_bits)
    give_points(student, override(recipe, flags))
    specs = {p.point: p.spec for p in list_points(student.model) if not p.spec.dynamic}
    start = time.perf_counter()
    calibrator = create_calibrator(method, {})
    again = replace(session, points=specs)
    install(student.model, calibrator.calibrate(again, lambda done: None))
    return time.perf_counter() - start


def evaluate(bed: Bed, student: Student, modes: tuple[Mode, ...]) -> list[dict[str, Any]]:
    """Figures of the quantized model (and of the float one if asked) on the evaluation data."""
    evaluator = Evaluator(student.clip, modes)
    metrics = [evaluator.run(source) for source in bed.evaluations]
    return [{"float": m.float, "quantized": m.quantized, "agreement": m.agreement} for m in metrics]


def table(bed: Bed, results: Mapping[str, Any], seconds: Mapping[str, float]) -> str:
    """One line per combination: mean and spread over the seeds, change against float."""
    base = headlines([figures["float"] for figures in results[FIRST]["figures"]])
    header = ["inputs", "bits", "method", *columns(bed), "seconds"]
    rows = [
        ["", "float", "", f"{100 * base[0]:.1f}", "", *(f"{100 * f:.1f}" for f in base[1:]), ""]
    ]
    for kind, bit_names in PLANS[bed.name].items():
        for bits, method in itertools.product(bit_names, METHODS):
            keys = [f"{kind}/{bits}/{method}/{seed}" for seed in range(SEEDS[kind])]
            took = f"{seconds[f'{kind}/{bits}/{method}']:.1f}"
            rows.append([kind, bits, method, *cells([results[key] for key in keys], base[0]), took])
    notes = "\n".join(f"* `{kind}`: {RECIPES[kind]}" for kind in PLANS[bed.name])
    return f"{markdown_table(header, rows)}\n\n{notes}"


def columns(bed: Bed) -> list[str]:
    """Headings of the figures; the first is followed by its change."""
    names = []
    for source, title in zip(bed.evaluations, bed.titles, strict=True):
        retrieval = source.startswith("captions:") or source == "demo:pairs"
        directions = ("image to text R@1", "text to image R@1")
        names += [f"{title} {d}" for d in directions] if retrieval else [f"{title} top-1"]
    return [names[0], "change", *names[1:]]


def headlines(figures: list[Mapping[str, Any]]) -> list[float]:
    """Top-1 of every classification, R@1 in both directions of every retrieval, fractions."""
    values: list[float] = []
    for found in figures:
        both = (found[key]["r1"] for key in ("image_to_text", "text_to_image") if key in found)
        values += [found["top1"]] if "top1" in found else both
    return values


def cells(found: list[Any], float_top1: float) -> list[str]:
    """Figures of one combination over its seeds."""
    seeds = [headlines([figures["quantized"] for figures in one["figures"]]) for one in found]
    first, *others = zip(*seeds, strict=True)
    change = f"{100 * (sum(first) / len(first) - float_top1):+.1f}"
    return [mean_spread(first), change, *(mean_spread(other) for other in others)]


def run_unit(bed: Bed, kind: str, seed: int, folder: Path, threads: int) -> dict[str, Any]:
    """All combinations of one kind and seed, kept in ``folder`` as they come."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore", QkitWarning)
    path = folder / f"{kind}-{seed}.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    student = prepare(load_model(bed.model), copy=False)
    for key, value in runs(bed, student, kind, seed, results):
        results[key] = value
        path.write_text(json.dumps(results))
        print(key, value["figures"][0]["quantized"], flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", choices=BEDS, default="demo", help="model and data")
    parser.add_argument("--out", type=Path, help="folder, one file a process")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    args = parser.parse_args()
    bed, out = BEDS[args.on], args.out or Path(f"accuracy-{args.on}")
    out.mkdir(parents=True, exist_ok=True)
    units = [(bed, kind, seed) for kind in PLANS[bed.name] for seed in range(SEEDS[kind])]
    done = run_units(args.jobs, run_unit, units, out)
    results = {key: value for unit in done for key, value in unit.items()}
    body = table(bed, results, timings(bed))
    command = f"python benchmarks/accuracy.py --on {args.on} --jobs {args.jobs}"
    write_section(f"accuracy-{args.on}", command, body)


if __name__ == "__main__":
    main()
