# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The tiny model on the bench, observed, with every scale that its layers choose alone."""

from types import SimpleNamespace

import pytest
import torch

from calibrators.entropy.survey import Surveyor
from calibrators.mse import Mse
from qkit.calibration.bench import Bench
from qkit.calibration.observe import Batch, observe
from qkit.calibration.session import open_session
from qkit.clip.loading import load_model
from qkit.clip.stages import list_stages
from qkit.pipeline.student import give_points, prepare
from qkit.recipe import Recipe, SchemeRule, override
from qkit.recipe.overrides import Overrides
from qkit.spec import Scheme

QUICK = Recipe(rules=(SchemeRule("token_embedding", scheme=Scheme()), SchemeRule()))
WORDS = ["a dog", "a red cat on a mat", "sky", "two", "x y z", "small blue car", "b", "the end"]


def silent(done, **figures):
    """Swallows progress."""


@pytest.fixture(scope="session")
def student(tiny_folder):
    """The tiny model, swapped; shared by all tests here, each of which gives it its own points."""
    return prepare(load_model(f"local-dir:{tiny_folder}"), copy=False)


@pytest.fixture(scope="session")
def samples(student):
    """Eight images and eight texts, two at a time."""
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    texts = student.clip.tokenizer(WORDS)
    return [Batch(images[i : i + 2], texts[i : i + 2]) for i in range(0, 8, 2)]


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
