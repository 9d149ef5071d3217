# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Accuracy of the best recipes at few bits, and what each of their ingredients is worth.

    python benchmarks/lowbit.py --on varied --jobs 2

Results are kept as they come, so an interrupted run goes on where it stopped; the table shows what
is there, with the number of draws. ``--only TEXT`` does the lines whose title holds one of these,
``--table`` none. Writes its table into benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accuracy import columns, evaluate, headlines
from beds import BEDS, Bed
from common import markdown_table, mean_spread, run_units, write_section
from heldout import changed
from results import FOLDER, Key, Results

from qkit.clip.loading import load_model
from qkit.errors import QkitWarning
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.inputs import open_calibration
from qkit.pipeline.search.mix import mixed
from qkit.pipeline.steps import Steps
from qkit.pipeline.student import give_points, prepare
from qkit.progress import Silent
from qkit.recipe import Recipe, load_recipe, parse_recipe
from qkit.recipe.writing import write_recipe

SEEDS = 3
SEARCHED = FOLDER / "searched"
NO_TRANSFORM, NO_ROUNDING = "transform=-", "rounding=-"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table.

    Attributes:
        title: what the table calls it.
        recipe: where it starts from.
        changes: what is different, see ``heldout.changed``.
        bed: on which other bed it is calibrated; empty for the one of the table.
    """

    title: str
    recipe: str
    changes: tuple[str, ...] = ()
    bed: str = ""

    @property
    def key(self) -> Key:
        """What its results are kept under; a draw's have its seed, too."""
        return {"line": self.title}


READY = tuple(
    Line(f"{bits} {kind}", f"{bits.lower()}-{kind}")
    for bits in ("W4A4", "W4A8", "W6A6", "W8A8")
    for kind in ("fast", "best-ptq", "mixed", "best")
    if kind != "mixed" or bits.startswith("W4")
)
BLOCKS = (
    "data.samples=512",
    *(f"reconstruction.{o}" for o in ("samples=512", "iterations=192", "crops=1", "tower=0")),
)
SCENES = (
    *(
        Line(f"{bits} best-ptq, scenes alone", f"{bits.lower()}-best-ptq", bed="testbed")
        for bits in ("W4A4", "W4A8", "W6A6", "W8A8")
    ),
    Line("W4A8 best-ptq, then blocks, scenes alone", "w4a8-best", BLOCKS, bed="testbed"),
)
QUARTER, CROPS = "reconstruction.tower=192", "reconstruction.crops=2"
EMBEDDINGS = ("reconstruction.streams=0.0", "reconstruction.tower_rate=3e-3", CROPS)
PLAIN = (NO_TRANSFORM, NO_ROUNDING)
ABLATION = (
    Line("W4A4 mse alone", "w4a4-best-ptq", PLAIN),
    Line("W4A4 coordinates alone", "w4a4-best-ptq", (NO_ROUNDING,)),
    Line("W4A4 AdaRound alone", "w4a4-best-ptq", (NO_TRANSFORM,)),
    *(
        Line(f"W4A4 {name}, AdaRound", "w4a4-best-ptq", (f'transform.method="{name}"',))
        for name in ("smooth", "reparameterize", "balance", "rotate")
    ),
    Line("W4A4 coordinates, GPTQ", "w4a4-best-ptq", ('rounding.method="gptq"',)),
    Line("W4A4 best-ptq, uniform inputs", "w4a4-best-ptq", ('rule.0.input.grid="uniform"',)),
    Line("W4A4 best-ptq, uniform weights", "w4a4-best-ptq", ('rule.0.weight.grid="uniform"',)),
    Line("W4A4 best-ptq, static probabilities", "w4a4-best-ptq", ("rule.0.probs=-",)),
    Line("W4A4 best-ptq without sweeps", "w4a4-best-ptq", ("rounding.sweeps=0",)),
    Line("W4A4 best-ptq, ridge 0.1", "w4a4-best-ptq", ("rounding.ridge=0.1",)),
    Line("W4A4 best-ptq, bias corrected", "w4a4-best-ptq", ("rounding.bias=true",)),
    Line("W4A4 best-ptq, then blocks", "w4a4-best", BLOCKS),
    Line("W4A8 best-ptq, then blocks", "w4a8-best", BLOCKS),
    Line("W4A4 best, crops", "w4a4-best", (CROPS,)),
    Line("W4A4 best, a quarter of the steps", "w4a4-best", (QUARTER,)),
    Line("W4A4 best, crops, a quarter of the steps", "w4a4-best", (CROPS, QUARTER)),
    *(
        Line(f"{bits} best, embeddings alone", f"{bits.lower()}-best", EMBEDDINGS)
        for bits in ("W4A4", "W4A8")
    ),
)
LEARNED = Line("W4A4 mixed, then learned", "w4a4-best", ('search.budget="bits=4"', CROPS))
LINES = (*READY, LEARNED, *SCENES, *ABLATION)


def run_unit(bed: Bed, line: Line, seed: int, kept: Results, threads: int) -> None:
    """One line with one draw; nothing where it is done."""
    key = {**line.key, "seed": seed}
    if kept.has(key):
        return
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore", QkitWarning)
    recipe = parse_recipe(changed(load_recipe(line.recipe).to_dict(), list(line.changes)))
    bed = BEDS[line.bed] if line.bed else bed
    if recipe.search is not None:
        recipe = searched(bed, recipe, f"{line.title.split()[0].lower()}-{seed}", seed)
    student = prepare(load_model(bed.model), copy=False)
    give_points(student, recipe)
    data = open_calibration(bed.calibration, recipe.samples, seed, skip_bad=False)
    start = time.perf_counter()
    Steps.of(recipe).run(student, data, Silent())
    seconds = time.perf_counter() - start
    figures = evaluate(bed, student, (Mode.QUANTIZE,))
    found = headlines([one["quantized"] for one in figures])
    kept.add(key, {"figures": found, "seconds": round(seconds)})
    print(
        line.title, seed, [round(100 * value, 1) for value in found], f"{seconds:.0f} s", flush=True
    )


def searched(bed: Bed, recipe: Recipe, name: str, seed: int) -> Recipe:
    """The recipe with the bits that a draw's search gives each layer, which its lines share."""
    kept = SEARCHED / f"{bed.name}-{name}.toml"
    if not kept.exists():
        start = replace(load_recipe(f"{name.rpartition('-')[0]}-mixed"), seed=seed)
        student = prepare(load_model(bed.model), copy=False)
        give_points(student, start)
        data = open_calibration(bed.calibration, start.samples, seed, skip_bad=False)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_recipe(kept, mixed(student, start, data, Silent()))
    return replace(recipe, rules=load_recipe(str(kept)).rules, search=None)


def table(bed: Bed, kept: Results) -> str:
    """One line each: mean and spread over the draws done so far, and seconds of calibration.

    Those of a search are not among them.
    """
    names, rows = columns(bed), []
    for line in LINES:
        done = kept.of(line.key)
        if done:
            cells = [mean_spread(v) for v in zip(*(one["figures"] for one in done), strict=True)]
            seconds = sum(one["seconds"] for one in done) / len(done)
            rows.append([line.title, str(len(done)), *cells, f"{seconds:.0f}"])
    return markdown_table(["recipe", "draws", names[0], *names[2:], "seconds"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", choices=BEDS, default="demo", help="model and data")
    parser.add_argument("--out", type=Path, help="file of results")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="draws of each line")
    parser.add_argument("--only", nargs="*", default=[""], help="lines whose title holds one")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    args = parser.parse_args()
    bed, kept = BEDS[args.on], Results(args.out or FOLDER / f"lowbit-{args.on}.jsonl")
    lines = [line for line in LINES if any(text in line.title for text in args.only)]
    units = [(bed, line, seed) for seed in range(args.seeds) for line in lines]
    run_units(args.jobs, run_unit, [] if args.table else units, kept)
    command = f"python benchmarks/lowbit.py --on {args.on} --jobs {args.jobs}"
    write_section(f"lowbit-{args.on}", command, table(bed, kept))


if __name__ == "__main__":
    main()
