# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Accuracy of ranges that are searched together, against ranges chosen one by one.

    python benchmarks/entropy.py --on demo --jobs 2
    python benchmarks/entropy.py --on testbed --jobs 2

The partition by entropy stands beside blocks of one layer, blocks of three, blocks of the same
sizes at random places, and a tower searched as one. Results are kept as they come, so an
interrupted run goes on where it stopped; the table shows what is there, with the number of seeds.
Models are evaluated with products in bfloat16 where the machine has it (its rounding, 0.2 %, is far
below that of 6 bits). Writes its table into benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accuracy import columns, evaluate, headlines
from beds import BEDS, Bed
from common import markdown_table, mean_spread, run_units, write_section

from qkit.calibration.install import install
from qkit.calibration.protocol import affines_of
from qkit.calibration.registry import create_calibrator
from qkit.calibration.session import CalibrationSession
from qkit.clip.loading import load_model
from qkit.errors import QkitWarning
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.inputs import open_calibration
from qkit.pipeline.steps import collect
from qkit.pipeline.student import Student, give_points, prepare
from qkit.progress import Silent, ignore
from qkit.recipe import Recipe, override
from qkit.recipe.overrides import Overrides

SAMPLES = 128
SEEDS = 3
SETTINGS = {"static": None, "token": "token"}
BITS = (4, 6)


@dataclass(frozen=True, slots=True)
class Method:
    """A line of the table.

    Attributes:
        title: what the table calls it.
        method: calibrator.
        options: its options; ``seed`` is added for a random partition.
        bits: where it is run.
        seeds: draws of calibration data by bed.
    """

    title: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    bits: tuple[int, ...] = BITS
    seeds: Mapping[str, int] = field(default_factory=lambda: {"demo": SEEDS, "testbed": SEEDS})


WHOLE = {"partition": "fixed", "max_layers": 999}
ONCE = {"demo": 1, "testbed": 1}  # beside the comparison that is asked for
METHODS = (
    Method("minmax", "minmax"),
    Method("percentile", "percentile"),
    Method("mse", "mse"),
    Method("each layer by itself", "entropy", {"percentiles": [], "factors": []}, (4,), ONCE),
    Method("blocks of 1", "entropy", {"max_layers": 1}),
    Method("entropy", "entropy"),
    Method("blocks of 3", "entropy", {"partition": "fixed"}),
    Method("random blocks", "entropy", {"partition": "random"}),
    Method("whole tower", "entropy", WHOLE, seeds={"demo": SEEDS, "testbed": 0}),
    Method("entropy, plain error", "entropy", {"objective": "plain"}, (4,), ONCE),
    Method("entropy, then learned", "entropy", {"optimize_encoder": True}, (4,), ONCE),
    Method("released code", "entropy", {"mode": "released"}, (4,), ONCE),
)


def run_unit(bed: Bed, setting: str, bits: int, seed: int, folder: Path, threads: int) -> None:
    """All methods of one setting on one draw of calibration data, kept as they come."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore", QkitWarning)
    path = folder / f"{setting}-{bits}-{seed}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    wanted = [m for m in METHODS if bits in m.bits and seed < m.seeds[bed.name]]
    missing = [m for m in wanted if m.title not in found]
    if not missing:
        return
    student = prepare(load_model(bed.model), copy=False)
    session = observe(bed, student, setting, bits, seed)
    for method in missing:
        options = dict(method.options)
        if options.get("partition") == "random":
            options["seed"] = seed
        seconds = quantize(student, session, method.method, options)
        with bfloat16_products():
            figures = evaluate(bed, student, (Mode.QUANTIZE,))
        found[method.title] = {"figures": figures, "seconds": seconds}
        path.write_text(json.dumps(found))
        print(setting, bits, seed, method.title, headline(found[method.title]), flush=True)


@contextmanager
def bfloat16_products() -> Iterator[None]:
    """Evaluate 120 models in reasonable time: factors rounded to bfloat16, sums in float32."""
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


def observe(bed: Bed, student: Student, setting: str, bits: int, seed: int) -> CalibrationSession:
    """One observing pass over a seed's draw."""
    calib = open_calibration(bed.calibration, SAMPLES, seed, skip_bad=False)
    give_points(
        student, override(Recipe(), Overrides(bits=bits, act_granularity=SETTINGS[setting]))
    )
    return collect(student, calib, 16, Silent())


def quantize(
    student: Student, session: CalibrationSession, method: str, options: Mapping[str, Any]
) -> float:
    """Choose and install scales; returns seconds."""
    start = time.perf_counter()
    chosen = create_calibrator(method, options).calibrate(session, ignore)
    install(student.model, chosen, affines_of(chosen))
    return time.perf_counter() - start


def headline(result: Mapping[str, Any]) -> list[float]:
    """Top-1 and recalls of one result, fractions."""
    return headlines([one["quantized"] for one in result["figures"]])


def table(bed: Bed, folder: Path) -> str:
    """One line for every setting, bits and method: mean and spread over the seeds done so far."""
    names = columns(bed)
    rows = []
    for bits in BITS:
        for setting in SETTINGS:
            parts = [folder / f"{setting}-{bits}-{seed}.json" for seed in range(SEEDS)]
            known = [json.loads(part.read_text()) for part in parts if part.exists()]
            for method in METHODS:
                done = [headline(one[method.title]) for one in known if method.title in one]
                if done:
                    cells = [mean_spread(values) for values in zip(*done, strict=True)]
                    head = [f"W{bits}A{bits}", setting, method.title, str(len(done))]
                    rows.append([*head, *cells])
    return markdown_table(["bits", "inputs", "ranges", "seeds", names[0], *names[2:]], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", choices=BEDS, default="demo", help="model and data")
    parser.add_argument("--out", type=Path, help="folder, one file a unit of work")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--table", action="store_true", help="only write what is known so far")
    args = parser.parse_args()
    bed, out = BEDS[args.on], args.out or Path(f"entropy-{args.on}")
    out.mkdir(parents=True, exist_ok=True)
    if not args.table:
        units = [(bed, s, bits, seed) for bits in BITS for seed in range(SEEDS) for s in SETTINGS]
        run_units(args.jobs, run_unit, units, out)
    command = f"python benchmarks/entropy.py --on {args.on} --jobs {args.jobs}"
    write_section(f"entropy-{args.on}", command, table(bed, out))


if __name__ == "__main__":
    main()
