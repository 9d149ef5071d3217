# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Train the demo model twice from the same seed and compare what the two can do.

    python benchmarks/demo_training.py

A training that is already in its folder is not run again. Writes its table into
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import markdown_table, write_section

from qkit.demo.checkpoint import RECORD

SHIPPED = Path(__file__).resolve().parents[1] / "qkit" / "demo" / "weights"
FIGURES = {
    "labelled top-1": ("demo:labelled", "top1"),
    "unseen top-1": ("demo:unseen", "top1"),
    "pairs, image to text R@1": ("demo:pairs", "image_to_text", "r1"),
    "pairs, text to image R@1": ("demo:pairs", "text_to_image", "r1"),
}


def train(folder: Path) -> dict[str, Any]:
    """Record of the training in a folder, made first where there is none."""
    if not (folder / RECORD).is_file():
        command = [sys.executable, "-m", "qkit.demo.train", "--out", str(folder)]
        subprocess.run(command, check=True)
    return read_record(folder)


def read_record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return record


def figure(record: Mapping[str, Any], path: tuple[str, ...]) -> float:
    value: Any = record["scores"]
    for key in path:
        value = value[key]
    return 100 * float(value)


def table(records: Mapping[str, Mapping[str, Any]]) -> str:
    """One line a figure, one column a training, and the largest difference."""
    rows = []
    for name, path in FIGURES.items():
        values = [figure(record, path) for record in records.values()]
        spread = max(values) - min(values)
        rows.append([name, *(f"{value:.2f}" for value in values), f"{spread:.2f}"])
    minutes = [f"{sum(r['seconds'].values()) / 60:.1f}" for r in records.values()]
    rows.append(["minutes", *minutes, ""])
    return markdown_table(["float model, %", *records, "difference"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-training"), help="folder")
    args = parser.parse_args()
    records = {"shipped": read_record(SHIPPED)}
    records |= {name: train(args.out / name) for name in ("first", "second")}
    write_section("demo-training", "python benchmarks/demo_training.py", table(records))


if __name__ == "__main__":
    main()
