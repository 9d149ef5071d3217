# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The tiny model on the bench, observed, with every scale that its layers choose alone."""

from types import SimpleNamespace

import pytest

from calibrators.entropy.survey import Surveyor
from calibrators.mse import Mse
from qkit.calibration.bench import Bench
from qkit.calibration.observe import observe
from qkit.calibration.session import open_session
from qkit.clip.stages import list_stages
from qkit.pipeline.student import give_points
from qkit.recipe import Recipe, SchemeRule, override
from qkit.recipe.overrides import Overrides
from qkit.spec import Scheme

QUICK = Recipe(rules=(SchemeRule("token_embedding", scheme=Scheme()), SchemeRule()))


def silent(done, **figures):
    """Swallows progress."""


@pytest.fixture
def open_bench(student, samples):
    """Session of the tiny model with a recipe's points, by default 4 bits but for the words."""

    def open_bench(recipe=None, **flags):
        give_points(student, override(recipe or QUICK, Overrides(**{"bits": 4} | flags)))
        observe(student.model, samples, silent)
        stages = {
            span: list_stages(student.blocks, student.layers, halves=span == "half")
            for span in ("half", "block")
        }
        bench = Bench(student.model, student.layers, stages, lambda n: samples[: (n + 1) // 2])
        return open_session(student.model, student.layers, bench)

    return open_bench


@pytest.fixture
def surveyed(open_bench):
    """A tower with its layers' own best scales installed: session, rig and survey."""

    def surveyed(tower="image", samples=8, weighted=True, **flags):
        session = open_bench(**flags)
        (rig,) = [rig for rig in session.bench.rigs("half", samples) if rig.tower == tower]
        for point, q in Mse().calibrate(session, silent).items():
            if point in rig.points:
                rig.put(point, q)
        survey = Surveyor(rig, session, 64, 0).run(weighted=weighted)
        return SimpleNamespace(session=session, rig=rig, survey=survey)

    return surveyed


@pytest.fixture
def make_rigs(open_bench):
    """Both towers with the least-error scales of each tensor installed."""

    def make(recipe=None, span="half", **flags):
        session = open_bench(recipe, **flags)
        rigs = session.bench.rigs(span, 8)
        for point, q in Mse().calibrate(session, silent).items():
            for rig in rigs:
                if point in rig.points:
                    rig.put(point, q)
        return rigs

    return make
