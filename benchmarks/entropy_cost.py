# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What searching layers together costs: against mse, with depth, and with the size of blocks.

    python benchmarks/entropy_cost.py --on testbed
    python benchmarks/entropy_cost.py --deep ViT-L-14:random

Seconds of observing and choosing scales, entropy against mse in one process. For a deep model, the
seconds up to every block of its image tower, and the straight line through them: linear growth is a
coefficient of determination of 1; then the seconds by most layers a block. Writes its table into
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator

import torch
from beds import BEDS, Bed
from common import markdown_table, write_section
from cost import batches
from entropy import SAMPLES, SETTINGS
from scipy import stats

from calibrators.entropy import Entropy
from calibrators.entropy.blocks import BlockSearch
from calibrators.entropy.partition import fixed
from calibrators.entropy.survey import Survey, Surveyor
from calibrators.minmax import MinMax
from qkit.calibration.bench import Bench, Rig
from qkit.calibration.observe import Batch, observe
from qkit.calibration.registry import create_calibrator
from qkit.calibration.session import CalibrationSession, open_session
from qkit.clip.loading import load_model
from qkit.clip.stages import list_stages
from qkit.errors import QkitWarning
from qkit.pipeline.inputs import open_calibration
from qkit.pipeline.steps import collect
from qkit.pipeline.student import give_points, prepare
from qkit.progress import Silent, ignore
from qkit.recipe import Recipe, override
from qkit.recipe.overrides import Overrides

BITS = 4
DEEP_SAMPLES = 2
SIZES = (1, 2, 3, 6)
FIRST = 6  # half blocks that sizes are compared on


def against_mse(bed: Bed, setting: str) -> list[list[str]]:
    """Observing and choosing scales, by mse and by entropy, on one session."""
    student = prepare(load_model(bed.model), copy=False)
    calib = open_calibration(bed.calibration, SAMPLES, 0, skip_bad=False)
    flags = Overrides(bits=BITS, act_granularity=SETTINGS[setting])
    give_points(student, override(Recipe(), flags))
    start = time.perf_counter()
    session = collect(student, calib, 16, Silent())
    observed = time.perf_counter() - start
    choose(session, "mse")  # first calls are slower
    spent = {name: observed + choose(session, name) for name in ("mse", "entropy")}
    ratio = f"{spent['entropy'] / spent['mse']:.2f}x"
    rows = [[f"{bed.name}, {setting}: observe", f"{observed:.1f} s", ""]]
    rows += [[f"{bed.name}, {setting}: observe + {n}", f"{s:.1f} s", ""] for n, s in spent.items()]
    return [*rows, [f"{bed.name}, {setting}: entropy against mse", ratio, "at most 3x"]]


def choose(session: CalibrationSession, method: str) -> float:
    """Seconds of choosing scales."""
    start = time.perf_counter()
    create_calibrator(method, {}).calibrate(session, ignore)
    return time.perf_counter() - start


def deep_session(name: str) -> CalibrationSession:
    """A model with random weights, observed on smooth random images and prompts."""
    student = prepare(load_model(name), copy=False)
    give_points(student, override(Recipe(), Overrides(bits=BITS)))
    few = batches(student.clip, DEEP_SAMPLES, 4)
    observe(student.model, few, ignore)
    cut = {"half": list_stages(student.blocks, student.layers, halves=True)}

    def read(count: int) -> Iterator[Batch]:
        return iter(few)

    return open_session(
        student.model, student.layers, Bench(student.model, student.layers, cut, read)
    )


def block_seconds(
    rig: Rig, session: CalibrationSession, survey: Survey, size: int, stages: int
) -> list[float]:
    """Seconds until each block of ``size`` stages was searched, up to so many stages."""
    options = Entropy()
    for point, q in survey.chosen.items():
        rig.put(point, q)
    walk = BlockSearch(
        rig,
        session,
        survey,
        options.percentiles,
        options.factors,
        options.wide,
        options.race,
        options.find,
    )
    start, spent = time.perf_counter(), []
    for block in fixed(min(stages, len(rig.stages)), size):
        walk.run(block)
        spent.append(time.perf_counter() - start)
    return spent


def growth(name: str) -> list[list[str]]:
    """Growth with depth and with block size on the image tower of a deep model."""
    session = deep_session(name)
    assert session.bench is not None
    rig = session.bench.rigs("half", DEEP_SAMPLES)[0]
    for point, q in MinMax().calibrate(session, ignore).items():
        if point in rig.points:
            rig.put(point, q)
    survey = Surveyor(rig, session, Entropy().rows, 0).run(weighted=True)
    spent = block_seconds(rig, session, survey, 3, len(rig.stages))
    line = stats.linregress(range(1, len(spent) + 1), spent)
    what = f"{name}, {len(rig.stages)} half blocks, {DEEP_SAMPLES} images, blocks of 3"
    half = spent[len(spent) // 2 - 1]
    rows = [
        [f"{what}: whole tower", f"{spent[-1]:.1f} s", ""],
        [f"{what}: whole tower against half of it", f"{spent[-1] / half:.2f}x", "2x"],
        [f"{what}: linear in depth, r²", f"{line.rvalue**2:.4f}", "linear"],
    ]
    sizes = [(size, block_seconds(rig, session, survey, size, FIRST)[-1]) for size in SIZES]
    return rows + [
        [f"{name}, first {FIRST} half blocks, blocks of {size}", f"{seconds:.1f} s", ""]
        for size, seconds in sizes
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", choices=BEDS, default="testbed", help="model and data")
    parser.add_argument("--deep", default="", help="a deep model, e.g. ViT-L-14:random")
    args = parser.parse_args()
    warnings.simplefilter("ignore", QkitWarning)
    torch.manual_seed(0)
    if args.deep:
        flags, rows = f"--deep {args.deep}", growth(args.deep)
    else:
        flags, rows = (
            f"--on {args.on}",
            [r for s in SETTINGS for r in against_mse(BEDS[args.on], s)],
        )
    body = markdown_table(["what", "measured", "goal"], rows)
    section = "entropy-depth" if args.deep else "entropy-cost"
    write_section(section, f"python benchmarks/entropy_cost.py {flags}", body)


if __name__ == "__main__":
    main()
