# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""How fast a W8A8 run of ViT-B-32 (random weights) is in integers, beside eager fp32 and bf16.

    python benchmarks/speed.py

Static per-tensor inputs, attention's operands in float; one thread, processor time, the three
models in turn in one process (`qkit bench`). Then the same model with packed 4-bit weights and
float inputs. Writes its tables into benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from common import markdown_table, write_section

import qkit
from qkit.artifact.folder import read_run
from qkit.errors import QkitWarning
from qkit.pipeline.bench.bench import bench
from qkit.pipeline.bench.memory import memory_of
from qkit.recipe import Recipe, SchemeRule
from qkit.report.speed import SpeedRow
from qkit.spec import Granularity, QuantSpec, Scheme

WEIGHT = QuantSpec(8, symmetric=True, granularity=Granularity.CHANNEL)
STATIC = Recipe((SchemeRule("*", scheme=Scheme(WEIGHT, QuantSpec(8))),))
PACKED = Recipe((SchemeRule("*", scheme=Scheme(replace(WEIGHT, bits=4))),))
GOALS = {
    ("image", 1): 4.2,
    ("image", 16): 6.0,
    ("image", 64): 6.2,
    ("full texts", 64): 6.0,
    ("captions", 64): 12.0,
}


class Runs(NamedTuple):
    """Run folders: W8A8, W4A8, and 4-bit weights under float inputs."""

    w8a8: Path
    w4a8: Path
    w4: Path


def make_runs(folder: Path) -> Runs:
    """Calibrate the three; random weights do not care how well."""
    runs = Runs(*(folder / name for name in Runs._fields))
    four = qkit.Overrides(samples=8, weight_bits=4)
    wanted = [(STATIC, qkit.Overrides(samples=8)), (STATIC, four), (PACKED, four)]
    for path, (recipe, flags) in zip(runs, wanted, strict=True):
        made = qkit.calibrate(
            "ViT-B-32:random", "demo:calib", recipe=recipe, method="minmax", overrides=flags
        )
        made.save(path)
    return runs


def load_seconds(path: Path) -> tuple[float, float]:
    """Processor time and time on the clock to load a run in integers; in a fresh process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", QkitWarning)
    import qkit.pipeline.load  # what `qkit.load` imports is not loading

    cpu, wall = time.process_time(), time.perf_counter()
    qkit.load(path, runtime="int8")
    return time.process_time() - cpu, time.perf_counter() - wall


def speed_rows(found: Sequence[SpeedRow], runtime: str) -> list[list[str]]:
    """One row a kind of batch: milliseconds of the three models, and the ratios."""
    places = list(dict.fromkeys((row.what, row.batch) for row in found))
    rows = []
    for what, batch in places:
        by = {row.model: row for row in found if (row.what, row.batch) == (what, batch)}
        times = [
            f"{1e3 * by[name].cpu.median:.1f} ± {1e3 * by[name].cpu.spread:.1f}"
            for name in ("fp32", "bf16", runtime)
        ]
        over_bf16 = by["bf16"].cpu.median / by[runtime].cpu.median
        ratios = [f"{by[runtime].speedup:.2f}x", f"{over_bf16:.2f}x"]
        goal = GOALS.get((what, batch)) if runtime == "int8" else None
        aim = "" if goal is None else f"at least {goal}x"
        rows.append([what, str(batch), *times, *ratios, aim])
    return rows


def speed_table(found: Sequence[SpeedRow], runtime: str) -> str:
    """The table of one integer model."""
    times = ["fp32 ms", "bf16 ms", f"{runtime} ms"]
    header = ["what", "batch", *times, "of fp32", "of bf16", "goal"]
    return markdown_table(header, speed_rows(found, runtime))


def size_rows(runs: Runs) -> list[list[str]]:
    """Files, loading, memory."""
    goals = {runs.w8a8: ("W8A8", "at least 3.9x"), runs.w4a8: ("W4A8", "at least 7x")}
    rows = []
    for path, (bits, goal) in goals.items():
        size = read_run(path).report["size"]
        ratio = size["float_bytes"] / size["quantized_bytes"]
        rows.append([f"file of {bits} against fp32", f"{ratio:.2f}x smaller", goal])
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as fresh:
        loads = [fresh.submit(load_seconds, runs.w8a8).result() for _ in range(3)]
    cpu, wall = (statistics.median(seconds) for seconds in zip(*loads, strict=True))
    rows.append(["load, after imports", f"{cpu:.2f} s of processor, {wall:.2f} s", "at most 1 s"])
    return rows + memory_rows(runs)


def memory_rows(runs: Runs) -> list[list[str]]:
    """Held and at most while loading and encoding, of the integer models and of fp32."""
    paths = {"fp32": runs.w8a8, "int8": runs.w8a8, "int4": runs.w4}
    taken = {name: memory_of(name, path, 1, 1) for name, path in paths.items()}
    full = taken.pop("fp32")
    return [
        [
            f"memory {what}, {name} of fp32",
            f"{own[i] / 1e6:.0f} of {full[i] / 1e6:.0f} MB, 1/{full[i] / own[i]:.1f}",
            "at most 1/3" if name == "int8" else "",
        ]
        for name, own in taken.items()
        for i, what in enumerate(("held", "peak"))
        if full is not None and own is not None
    ]


def read_options(description: str | None) -> argparse.Namespace:
    """Batch sizes and repeats from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--images", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--texts", type=int, nargs="+", default=[64])
    parser.add_argument("--repeats", type=int, default=7)
    return parser.parse_args()


def main() -> None:
    args = read_options(__doc__)
    warnings.simplefilter("ignore", QkitWarning)
    torch.set_num_threads(1)
    found: list[SpeedRow] = []
    options = {"thread_count": 1, "repeats": args.repeats, "memory": False}
    with tempfile.TemporaryDirectory() as folder:
        runs = make_runs(Path(folder))
        batches = {("image",): args.images, ("captions", "full texts"): args.texts}
        for what, sizes in batches.items():
            found += bench(runs.w8a8, batch_sizes=sizes, what=what, **options).rows
        packed = bench(runs.w4, batch_sizes=args.images, what=["image"], **options).rows
        sizes_table = markdown_table(["what", "measured", "goal"], size_rows(runs))
    tables = "\n\n".join([speed_table(found, "int8"), speed_table(packed, "int4"), sizes_table])
    print(tables)
    command = f"python benchmarks/speed.py --repeats {args.repeats}"
    images, texts = (" ".join(map(str, sizes)) for sizes in (args.images, args.texts))
    write_section("speed", f"{command} --images {images} --texts {texts}", tables)


if __name__ == "__main__":
    main()
