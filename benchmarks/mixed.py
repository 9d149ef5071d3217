# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What bits of its own for each layer are worth, against as many bits for all layers alike.

    python benchmarks/mixed.py --on demo --bits 4 5 --samples 32 128

Searches at each budget of mean weight bits, calibrates the recipe that comes out and evaluates it
on images that the search did not see. Inputs have 8 bits in every row. Writes its table into
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from accuracy import columns, headlines
from beds import BEDS, Bed
from common import markdown_table, write_section

import qkit
from qkit.errors import QkitWarning
from qkit.recipe import override

START = "w4a8-mse"


def row(bed: Bed, title: str, recipe: qkit.Recipe, seconds: str) -> list[str]:
    """Accuracy, and how far the probabilities are from the float model's."""
    result = qkit.calibrate(bed.model, bed.calibration, recipe=recipe, evaluate=bed.evaluations)
    figures = headlines([dict(metric.quantized) for metric in result.report.metrics])
    spaces = [metric.space for metric in result.report.metrics if metric.space is not None]
    kls = [f"{1e3 * space.logit_kl:.3g}" for space in spaces]
    print(title, figures, kls, flush=True)
    return [title, *(f"{100 * value:.1f}" for value in figures), *kls, seconds]


def rows(bed: Bed, budgets: list[int], samples: list[int]) -> Iterator[list[str]]:
    """All layers alike, then searched, budget by budget."""
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "run"
        qkit.calibrate(bed.model, bed.calibration, recipe=START).save(start)
        for bits in budgets:
            alike = override(qkit.load_recipe(START), qkit.Overrides(weight_bits=bits))
            yield row(bed, f"all {bits}/8", alike, "")
            for pairs in samples:
                began = time.perf_counter()
                found = qkit.search(start, f"bits={bits}", samples=pairs)
                seconds = f"{time.perf_counter() - began:.0f}"
                yield row(bed, f"bits={bits}, {pairs} pairs", found.recipe, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", choices=BEDS, default="demo", help="model and data")
    parser.add_argument("--samples", type=int, nargs="+", default=[32, 128], help="pairs")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 5], help="budgets")
    args = parser.parse_args()
    warnings.simplefilter("ignore", QkitWarning)
    bed = BEDS[args.on]
    names = columns(bed)
    kls = [f"{title} KL" for title in bed.titles]
    lines = list(rows(bed, args.bits, args.samples))
    body = markdown_table(["bits", names[0], *names[2:], *kls, "seconds"], lines)
    pairs, bits = (" ".join(map(str, values)) for values in (args.samples, args.bits))
    command = f"python benchmarks/mixed.py --on {args.on} --bits {bits} --samples {pairs}"
    write_section(f"mixed-{args.on}", command, body)


if __name__ == "__main__":
    main()
