# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The dependency against what searching layers together saves (Q-VLM, Figure 2: 0.97).

    python benchmarks/dependency.py --on demo
    python benchmarks/dependency.py --on testbed

For every pair of neighbouring half blocks the two are searched one after the other and together,
from the same start and on the same quantized inputs. The gap between the two errors, relative to
the float stream, stands against the dependency, per draw of calibration data. Writes a table and a
plot into benchmarks/.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
import torch
from beds import BEDS, Bed
from common import markdown_table, write_section
from entropy import SETTINGS, observe
from playwright.sync_api import sync_playwright
from scipy import stats

from calibrators.entropy import Entropy
from calibrators.entropy.blocks import BlockSearch
from calibrators.entropy.search import search
from calibrators.entropy.survey import Survey, Surveyor
from calibrators.mse import Mse
from qkit.calibration.bench import Rig
from qkit.calibration.session import CalibrationSession
from qkit.clip.loading import load_model
from qkit.errors import QkitWarning
from qkit.pipeline.student import prepare
from qkit.progress import ignore

BITS = 4
FEW = 8  # images and texts that pairs are searched on, every candidate on all of them


class Pair(NamedTuple):
    """One pair of neighbouring stages."""

    tower: str
    name: str
    dependency: float
    apart: float
    together: float

    @property
    def gap(self) -> float:
        """Error that the joint search saves."""
        return self.apart - self.together


def pairs(bed: Bed, setting: str, seed: int) -> list[Pair]:
    """All neighbouring pairs of both towers."""
    options = Entropy()
    student = prepare(load_model(bed.model), copy=False)
    session = observe(bed, student, setting, BITS, seed)
    start = Mse().calibrate(session, ignore)
    found: list[Pair] = []
    assert session.bench is not None
    for rig in session.bench.rigs("half", FEW):
        for point in rig.points.keys() & start.keys():
            rig.put(point, start[point])
        survey = Surveyor(rig, session, options.rows, seed).run(weighted=True)
        found += [one(rig, session, survey, options, k) for k in range(len(survey.dependencies))]
    return found


def one(rig: Rig, session: CalibrationSession, survey: Survey, options: Entropy, k: int) -> Pair:
    """Stages k and k + 1: all before them keep their own best scales, quantized."""
    apart = error(rig, session, survey, options, k, (range(k, k + 1), range(k + 1, k + 2)))
    together = error(rig, session, survey, options, k, (range(k, k + 2),))
    name = rig.stages[k].name
    return Pair(rig.tower, name, survey.dependencies[k], apart, together)


def error(
    rig: Rig,
    session: CalibrationSession,
    survey: Survey,
    options: Entropy,
    k: int,
    blocks: tuple[range, ...],
) -> float:
    """Error after stage k + 1 when it and stage k are searched in ``blocks``."""
    for point in rig.points.keys() & survey.chosen.keys():
        rig.put(point, survey.chosen[point])
    find = partial(search, limit=options.exhaustive, sweeps=2, restarts=0)
    walk = BlockSearch(
        rig, session, survey, options.percentiles, options.factors, False, False, find
    )
    walk.skip(k)
    return [walk.run(block) for block in blocks][-1].error


def plot(found: dict[str, list[Pair]], path: Path) -> None:
    """Dependency against gap, one colour a setting."""
    figure = go.Figure()
    for title, points in found.items():
        figure.add_scatter(
            x=[p.dependency for p in points],
            y=[p.gap for p in points],
            text=[p.name for p in points],
            mode="markers",
            name=title,
        )
    figure.update_layout(
        title="Dependency against what joint search saves",
        xaxis_title="dependency of the next stage, nats",
        yaxis_title="error saved, relative to the float stream",
        template="plotly_white",
    )
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as browsers:
        page = Path(folder) / "plot.html"
        figure.write_html(page, include_plotlyjs=True)
        browser = browsers.chromium.launch(executable_path=shutil.which("chromium"))
        view = browser.new_page(viewport={"width": 900, "height": 560})
        view.goto(page.as_uri())
        view.wait_for_selector(".main-svg")
        view.screenshot(path=path)
        browser.close()


def rows(found: dict[str, list[Pair]]) -> list[list[str]]:
    """Correlations by tower and setting."""
    out = []
    for title, points in found.items():
        for tower in ("image", "text"):
            own = [p for p in points if p.tower == tower]
            x = np.array([p.dependency for p in own])
            y = np.array([p.gap for p in own])
            linear, rank = stats.pearsonr(x, y), stats.spearmanr(x, y)
            figures = (linear.statistic, linear.pvalue, rank.statistic, rank.pvalue)
            spread = f"{x.min():.2f} to {x.max():.2f}"
            saved = f"{100 * y.mean():.2f}"
            out.append([title, tower, str(len(own)), spread, saved, *(f"{v:.2f}" for v in figures)])
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", choices=BEDS, default="demo", help="model and data")
    parser.add_argument("--seeds", type=int, default=3, help="draws of calibration data")
    args = parser.parse_args()
    warnings.simplefilter("ignore", QkitWarning)
    torch.manual_seed(0)
    found: dict[str, list[Any]] = {}
    for setting in SETTINGS:
        for seed in range(args.seeds):
            found.setdefault(setting, []).extend(pairs(BEDS[args.on], setting, seed))
            print(setting, seed, json.dumps(rows(found)[-2:]), flush=True)
    plot(found, Path(__file__).with_name(f"dependency-{args.on}.png"))
    header = ["inputs", "tower", "pairs", "dependency, nats", "error saved, %"]
    header += ["Pearson", "p", "Spearman", "p"]
    command = f"python benchmarks/dependency.py --on {args.on}"
    write_section(f"dependency-{args.on}", command, markdown_table(header, rows(found)))


if __name__ == "__main__":
    main()
