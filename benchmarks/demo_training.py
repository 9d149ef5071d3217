# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Train the demo model twice from the same seed and compare what the two can do.

    python benchmarks/demo_training.py

A training that is already in its folder is not run again. Writes its table into
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import markdown_table, write_section

from qkit.clip.loading import load_model
from qkit.demo.checkpoint import RECORD, WEIGHTS, expand_checkpoint
from qkit.demo.training.record import score
from qkit.progress import Silent

SHIPPED = Path(__file__).resolve().parents[1] / "qkit" / "demo" / "weights"
FIGURES = {
    "labelled top-1": ("demo:labelled", "top1"),
    "unseen top-1": ("demo:unseen", "top1"),
    "pairs, image to text R@1": ("demo:pairs", "image_to_text", "r1"),
    "pairs, text to image R@1": ("demo:pairs", "text_to_image", "r1"),
}


def train(folder: Path) -> Path:
    """Train into a folder, unless that was done before."""
    if not (folder / RECORD).is_file():
        command = [sys.executable, "-m", "qkit.demo.train", "--out", str(folder)]
        subprocess.run(command, check=True)
    return folder


def rescored(folder: Path) -> dict[str, Any]:
    """What a stored model can do now, measured again."""
    with tempfile.TemporaryDirectory() as loadable:
        expand_checkpoint(Path(loadable), folder / WEIGHTS)
        return score(load_model(f"local-dir:{loadable}"), Silent())


def figure(scores: Mapping[str, Any], path: tuple[str, ...]) -> float:
    value: Any = scores
    for key in path:
        value = value[key]
    return 100 * float(value)


def table(folders: Mapping[str, Path]) -> str:
    """One line a figure, one column a training, and the largest difference."""
    rows = []
    scores = [rescored(folder) for folder in folders.values()]
    for name, path in FIGURES.items():
        values = [figure(each, path) for each in scores]
        spread = max(values) - min(values)
        rows.append([name, *(f"{value:.2f}" for value in values), f"{spread:.2f}"])
    records = [json.loads((folder / RECORD).read_text()) for folder in folders.values()]
    minutes = [f"{sum(record['seconds'].values()) / 60:.1f}" for record in records]
    rows.append(["minutes", *minutes, ""])
    same = {hashlib.sha256((folder / WEIGHTS).read_bytes()).digest() for folder in folders.values()}
    rows.append(["different checkpoints", *[""] * len(folders), str(len(same))])
    return markdown_table(["float model, %", *folders, "difference"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-training"), help="folder")
    args = parser.parse_args()
    folders = {"shipped": SHIPPED}
    folders |= {name: train(args.out / name) for name in ("first", "second")}
    write_section("demo-training", "python benchmarks/demo_training.py", table(folders))


if __name__ == "__main__":
    main()
