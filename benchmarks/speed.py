# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""How fast a W8A8 run of ViT-B-32 (random weights) is in integers, beside eager fp32 and bf16.

    python benchmarks/speed.py

Static per-tensor inputs, attention's operands in float; one thread, processor time, the three
models in turn in one process (`qkit bench`). Writes its tables into benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

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
GOALS = {
    ("image", 1): 4.2,
    ("image", 16): 6.0,
    ("image", 64): 6.2,
    ("full texts", 64): 6.0,
    ("captions", 64): 12.0,
}


def make_run(folder: Path, bits: int = 8) -> Path:
    """A run folder at W8A8, or with fewer bits of weights."""
    flags = qkit.Overrides(samples=8, weight_bits=bits)
    result = qkit.calibrate(
        "ViT-B-32:random", "demo:calib", recipe=STATIC, method="minmax", overrides=flags
    )
    result.save(folder / f"w{bits}a8")
    return folder / f"w{bits}a8"


def load_seconds(path: Path) -> tuple[float, float]:
    """Processor time and time on the clock to load a run in integers; in a fresh process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", QkitWarning)
    import qkit.pipeline.load  # what `qkit.load` imports is not loading

    cpu, wall = time.process_time(), time.perf_counter()
    qkit.load(path, runtime="int8")
    return time.process_time() - cpu, time.perf_counter() - wall


def speed_rows(found: list[SpeedRow]) -> list[list[str]]:
    """One row a kind of batch: milliseconds of the three models, and the ratios."""
    places = list(dict.fromkeys((row.what, row.batch) for row in found))
    rows = []
    for what, batch in places:
        by = {row.model: row for row in found if (row.what, row.batch) == (what, batch)}
        times = [
            f"{1e3 * by[name].cpu.median:.1f} ± {1e3 * by[name].cpu.spread:.1f}"
            for name in ("fp32", "bf16", "int8")
        ]
        over_bf16 = by["bf16"].cpu.median / by["int8"].cpu.median
        ratios = [f"{by['int8'].speedup:.2f}x", f"{over_bf16:.2f}x"]
        goal = GOALS.get((what, batch))
        aim = "" if goal is None else f"at least {goal}x"
        rows.append([what, str(batch), *times, *ratios, aim])
    return rows


def size_rows(path: Path, four: Path) -> list[list[str]]:
    """Files, loading, memory."""
    sizes = {p: read_run(p).report["size"] for p in (path, four)}
    ratio = {p: s["float_bytes"] / s["quantized_bytes"] for p, s in sizes.items()}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as fresh:
        loads = [fresh.submit(load_seconds, path).result() for _ in range(3)]
    cpu, wall = (statistics.median(seconds) for seconds in zip(*loads, strict=True))
    rows = [
        ["file of W8A8 against fp32", f"{ratio[path]:.2f}x smaller", "at least 3.9x"],
        ["file of W4A8 against fp32", f"{ratio[four]:.2f}x smaller", "at least 7x"],
        ["load, after imports", f"{cpu:.2f} s of processor, {wall:.2f} s", "at most 1 s"],
    ]
    taken = {name: memory_of(name, path, 1, 1) for name in ("fp32", "int8")}
    if taken["fp32"] is not None and taken["int8"] is not None:
        for i, what in enumerate(("held", "peak")):
            full, small = taken["fp32"][i] / 1e6, taken["int8"][i] / 1e6
            said = f"{small:.0f} of {full:.0f} MB, 1/{full / small:.1f}"
            rows.append([f"memory {what}, int8 of fp32", said, "at most 1/3"])
    return rows


def read_options(description: str | None) -> argparse.Namespace:
    """Batch sizes and repeats from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--images", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--texts", type=int, nargs="*", default=[64])
    parser.add_argument("--repeats", type=int, default=7)
    return parser.parse_args()


def main() -> None:
    args = read_options(__doc__)
    warnings.simplefilter("ignore", QkitWarning)
    torch.set_num_threads(1)
    found: list[SpeedRow] = []
    with tempfile.TemporaryDirectory() as folder:
        path, four = make_run(Path(folder)), make_run(Path(folder), 4)
        batches = {("image",): args.images, ("captions", "full texts"): args.texts}
        for what, sizes in batches.items():
            if sizes:
                options = {"thread_count": 1, "repeats": args.repeats, "memory": False}
                report = bench(path, batch_sizes=sizes, what=what, **options)
                found += report.rows
        sizes_table = markdown_table(["what", "measured", "goal"], size_rows(path, four))
    header = ["what", "batch", "fp32 ms", "bf16 ms", "int8 ms", "of fp32", "of bf16", "goal"]
    tables = markdown_table(header, speed_rows(found)) + "\n\n" + sizes_table
    print(tables)
    command = f"python benchmarks/speed.py --repeats {args.repeats}"
    images, texts = (" ".join(map(str, sizes)) for sizes in (args.images, args.texts))
    write_section("speed", f"{command} --images {images} --texts {texts}", tables)


if __name__ == "__main__":
    main()
