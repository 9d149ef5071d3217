# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What exports of a run compute, beside the run itself.

    python benchmarks/exports.py [--on testbed]

Calibrates by each recipe, exports to each format, and sets the proofs side by side: cosines to the
simulated model, products on int8 kernels, files. `--keep FOLDER` keeps runs and exports there and
makes none anew that it finds. Writes its table into benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

from beds import BEDS, Bed
from common import markdown_table, write_section

import qkit
from qkit.artifact.folder import read_run
from qkit.errors import QkitWarning

RECIPES = ("w8a8-percentile", "w8a8-best-ptq", "w4a4-fast")
FORMATS = ("onnx", "openvino", "compiled")
HEADER = (
    *("recipe", "run MB", "format", "MB", "in", "image cosine", "text cosine"),
    *("int8 products", "top-1 agrees"),
)


def find_run(bed: Bed, recipe: str, folder: Path) -> Path:
    """The run by a recipe, calibrated if it is not there."""
    path = folder / f"run-{recipe}"
    if not path.exists():
        qkit.calibrate(bed.model, bed.calibration, recipe=recipe).save(path)
    return path


def find_proof(bed: Bed, run: Path, recipe: str, form: str, folder: Path) -> dict[str, Any]:
    """What is known of an export, made if it is not there."""
    out = folder / f"x-{form}-{recipe}"
    if not out.exists():
        qkit.export(run, form, out, data=bed.evaluations[-1])
    return json.loads((out / "export.json").read_text(encoding="utf-8"))


def rows_of(recipe: str, run: Path, proof: dict[str, Any]) -> list[list[str]]:
    """A row a backend; of ONNX also one of the simulation that sums floats."""
    own = [proof["float_sums"]] if proof["format"] == "onnx" else []
    rows = []
    for backend in [*own, *proof["proofs"]]:
        mine = backend in own
        size = read_run(run).report["size"]["quantized_bytes"]
        files = "" if mine else f"{sum(proof['files'].values()) / 1e6:.1f}"
        name = "" if mine else proof["format"]
        cosines = [f"{t['mean_cosine']:.5f}" for t in backend["towers"]]
        counts = [f"{t['integer_products']} of {t['products']}" for t in backend["towers"]]
        ran = "" if mine else ", ".join(counts)
        agree = f"{backend['agreement']:.1%}"
        place = [recipe, f"{size / 1e6:.1f}", name, files, backend["backend"]]
        rows.append([*place, *cosines, ran, agree])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", choices=list(BEDS), default="demo")
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES))
    parser.add_argument("--formats", nargs="*", default=list(FORMATS))
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore", QkitWarning)
    bed, rows = BEDS[args.on], []
    with tempfile.TemporaryDirectory() as made:
        folder = args.keep or Path(made)
        for recipe in args.recipes:
            run = find_run(bed, recipe, folder)
            for form in args.formats:
                rows += rows_of(recipe, run, find_proof(bed, run, recipe, form, folder))
    table = markdown_table(HEADER, rows)
    print(table)
    recipes, formats = " ".join(args.recipes), " ".join(args.formats)
    command = f"python benchmarks/exports.py --on {args.on}"
    write_section(f"exports-{args.on}", f"{command} --recipes {recipes} --formats {formats}", table)


if __name__ == "__main__":
    main()
