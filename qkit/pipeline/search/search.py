# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Search who gets how many bits within a budget, for both towers at once and without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qkit.artifact.folder import read_run
from qkit.pipeline.inputs import open_calibration
from qkit.pipeline.search.asked import SAMPLES, ask
from qkit.pipeline.search.costs import model_costs
from qkit.pipeline.search.explore import check_steps, explore, open_ground
from qkit.pipeline.search.kept import open_trials
from qkit.pipeline.teacher import load_teacher, stored_recipe
from qkit.progress import Progress, Silent
from qkit.recipe import Recipe
from qkit.recipe.writing import write_recipe
from qkit.report.model import ModelReport
from qkit.report.search import Row, SearchReport


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The best recipe within the budget, and everything that was compared with it.

    Attributes:
        recipe: ready for ``qkit.calibrate``.
        report: losses, costs and who got what.
    """

    recipe: Recipe
    report: SearchReport

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the recipe as a TOML file.

        Raises:
            RecipeError: the file exists or cannot be written.
        """
        write_recipe(Path(path), self.recipe, overwrite=overwrite)


def search(
    run: str | Path,
    budget: str | Sequence[str],
    *,
    choices: str | None = None,
    data: str | None = None,
    samples: int = SAMPLES,
    model: str | None = None,
    times: str | Path | None = None,
    rounding: bool = True,
    progress: Progress | None = None,
    checkpoints: Path | None = None,
) -> SearchResult:
    """Find the bits of every layer that keep image-text probabilities nearest to the float model's.

    The run's own recipe (transform, calibrator, rounding) calibrates the model once at every
    choice of bits; reconstruction is left to the recipe that comes out. Layer by layer (layers
    that read one input together), the divergence that each choice causes alone is measured; their
    sum is what the search makes least.

    Args:
        run: folder of a calibrated model.
        budget: "bits=5" (mean of the weights quantized), "size=30MB" (of the stored tensors),
            "bitops=200G" or "latency=5ms" (one image and one text), or several that all hold.
        choices: pairs of weight/input bits, "4/4,4/8,8/8"; by default weights of 3 to 8 bits and
            inputs of the run's, or, where inputs cost too, four pairs from 4/4 to 8/8.
        data: pairs to calibrate and measure on; by default those of the run.
        samples: how many pairs to measure on, at most those that the recipe draws.
        model: where the float model lies now; by default where it lay.
        times: TOML file of measured nanoseconds per million multiply-accumulates by bits; a
            budget of latency needs it.
        rounding: whether weights are rounded in the trials as the run's ``[rounding]`` says, or to
            the nearest, which is faster.
        progress: who shows how far it is.
        checkpoints: folder where trials are kept, so that the same call goes on after them.

    Raises:
        QkitError: anything the caller can mend, in one line.
    """
    folder, watch = read_run(Path(run)), progress or Silent()
    recipe, known = stored_recipe(folder), ModelReport.from_dict(folder.report)
    asked = ask(recipe, budget, choices, times, samples, rounding=rounding)
    source = data or str(known.calibration["source"])
    calib = open_calibration(source, recipe.samples, recipe.seed, skip_bad=data is None)
    check_steps(recipe, asked)
    with watch.phase("load float model", None):
        student = load_teacher(folder, model)
    with watch.phase("encode pairs", None):
        ground = open_ground(student, calib, asked, str(folder.path))
        ran = {**model_costs(student), "size": float(known.size["quantized_bytes"])}
        start = Row("the run", ran, None, ground.meter.whole())
        memory = open_trials(checkpoints, student, recipe, calib, asked)
    found = explore(ground, recipe, calib, asked, watch, memory)
    chosen, report = found.compare(start, source, watch)
    return SearchResult(found.recipe(recipe, chosen), report)
