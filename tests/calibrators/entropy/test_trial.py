# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Errors at a block's end: the cache changes nothing, and joint search pays."""

import itertools
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from calibrators.entropy.blocks import BlockSearch
from calibrators.entropy.search import descend, exhaustive, search
from calibrators.entropy.trial import Trial
from qkit.calibration.running import switched

QUICK = {"percentiles": (1.0, 0.98), "factors": (0.9,), "wide": False, "race": True}


class Bench:
    """The first two stages of a tower on trial."""

    def __init__(self, found, places=99, **options):
        self.rig, self.survey = found.rig, found.survey
        walk = BlockSearch(found.rig, found.session, found.survey, **QUICK | options, search=None)
        self.stages = found.rig.stages[:2]
        self.arriving = found.rig.enter(quantized=True)
        self.target = found.rig.run(self.stages, found.rig.enter(quantized=False), quantized=False)
        options = walk._options(self.stages)
        self.options = dict(itertools.islice(options.items(), places))
        self.importance = found.survey.importances[1]

    @property
    def points(self):
        return [point for stage in self.stages for point in stage.points]

    def trial(self):
        return Trial(
            self.rig, self.stages, self.options, self.arriving, self.target, self.importance
        )

    def scratch(self, choice, bound=math.inf):
        """The error of a choice, everything run again."""
        trial = self.trial()
        for place, candidate in enumerate(choice):
            self.rig.put(trial.points[place], trial.options[place][candidate])
        stream = self.rig.run(self.stages, self.arriving, quantized=True)
        pairs = zip(stream, self.target, strict=True)
        return sum(self.importance.error(i, a - b) for i, (a, b) in enumerate(pairs))


@pytest.fixture
def bench(surveyed):
    def bench(tower="image", samples=8, places=99, **options):
        return Bench(surveyed(tower, samples), places, **options)

    return bench


def choices_of(counts, how_many):
    """Random choices that share beginnings with one another, and some that come twice."""
    generator = torch.Generator().manual_seed(0)
    choice = [0] * len(counts)
    for _ in range(how_many):
        place = int(torch.randint(len(counts), (), generator=generator))
        choice[place] = int(torch.randint(counts[place], (), generator=generator))
        yield tuple(choice)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_the_cache_gives_the_error_of_running_everything_again(bench, tower):
    made = bench(tower)
    trial = made.trial()
    with switched(made.points, True):
        for choice in choices_of(trial.counts, 25):
            assert trial.error(choice, math.inf) == pytest.approx(made.scratch(choice), rel=1e-6)
            trial._installed = [None] * len(choice)  # the other way of running has put its own


def test_what_stays_is_not_run_again(bench, monkeypatch):
    made = bench()
    trial = made.trial()
    ran = []
    step = type(made.rig).step

    def counted(rig, stage, number, x):
        ran.append(stage)
        return step(rig, stage, number, x)

    monkeypatch.setattr(type(made.rig), "step", counted)
    first = len([p for p in made.stages[0].points if p.point in made.options])
    zero = (0,) * len(trial.counts)
    late = (*zero[:-1], 1)
    early = (1, *zero[1:])
    assert 0 < first < len(zero)
    with switched(made.points, True):
        for choice, stages in ((zero, 2), (late, 1), (early, 2)):
            ran.clear()
            trial.error(choice, math.inf)
            assert len(ran) == stages * len(made.arriving)


def test_variables_come_stage_by_stage_and_their_first_candidate_is_the_installed_one(bench):
    made = bench()
    trial = made.trial()
    assert trial.points == [p.point for p in made.points if p.point in made.options]
    for point, option in zip(trial.points, trial.options, strict=True):
        assert all(map(torch.equal, option[0], made.rig.points[point].qparams))
    assert trial.counts == [len(option) for option in trial.options]
    assert min(trial.counts) >= 2


def test_install_puts_the_choice_in_place(bench):
    trial = (made := bench()).trial()
    last = tuple(count - 1 for count in trial.counts)
    trial.install(last)
    for point, option in zip(trial.points, trial.options, strict=True):
        assert all(map(torch.equal, option[-1], made.rig.points[point].qparams))


def test_an_error_above_the_bound_is_infinite(bench):
    made = bench()
    trial = made.trial()
    zero = (0,) * len(trial.counts)
    with switched(made.points, True):
        whole = trial.error(zero, math.inf)
        assert trial.error(zero, whole * 1.001) == whole
        assert trial.error(zero, whole * 0.5) == math.inf


def test_a_new_start_has_no_rivals(bench):
    """Else no restart could ever be worse for a moment, which is what restarts are for."""
    made = bench("text", samples=4)
    with switched(made.points, True):
        trial = made.trial()
        zero, other = (0,) * len(trial.counts), tuple(count - 1 for count in trial.counts)
        errors = [trial.error(choice, math.inf) for choice in (zero, other, zero)]
        assert errors == [made.scratch(zero), made.scratch(other), made.scratch(zero)]


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_joint_search_is_never_worse_than_each_layer_alone(bench, tower):
    made = bench(tower)
    with switched(made.points, True):
        zero = (0,) * len(made.options)
        alone = made.scratch(zero)
        found = search(made.trial().counts, made.trial().error, 125, 1, 0)
        assert found.start == pytest.approx(alone, rel=1e-6)
        assert found.error == pytest.approx(made.scratch(found.choice), rel=1e-6)
    assert found.error <= alone
    if tower == "image":  # there is something to gain
        assert found.error < alone


def test_exhaustive_search_of_one_batch_is_exact(bench):
    made = bench(samples=2, places=3)
    with switched(made.points, True):
        counts = made.trial().counts
        errors = {c: made.scratch(c) for c in itertools.product(*map(range, counts))}
        found = exhaustive(counts, made.trial().error)
    assert found.error == pytest.approx(min(errors.values()), rel=1e-6)
    assert errors[found.choice] == pytest.approx(min(errors.values()), rel=1e-6)


@pytest.mark.parametrize(("race", "found"), [(False, ((1,), 2.0)), (True, ((0,), 11.0))])
def test_exhaustive_search_is_exact_but_for_racing(race, found):
    """The second candidate is the best of all, though it is behind after the first batch."""
    tried = torch.tensor([[1.0, 10.0], [2.0, 0.0]])
    place = SimpleNamespace(point="p")
    rig = SimpleNamespace(now=0)
    rig.put = lambda point, q: setattr(rig, "now", q)
    rig.step = lambda stage, number, x: x + tried[rig.now, number]
    plain = SimpleNamespace(error=lambda number, off: float(off))
    nothing = [torch.tensor(0.0)] * 2
    stages = [SimpleNamespace(points=[place])]
    trial = Trial(rig, stages, {"p": [0, 1]}, nothing, nothing, plain, race=race)
    assert exhaustive(trial.counts, trial.error)[:2] == found


@pytest.mark.parametrize("tower", ["image", "text"])
def test_descent_with_restarts_comes_close_to_exhaustive_search(bench, tower):
    made = bench(tower, samples=2, places=4)
    with switched(made.points, True):
        counts = made.trial().counts
        best = exhaustive(counts, made.trial().error)
        run = partial(search, counts, limit=1, sweeps=5)
        once, often = (run(error=made.trial().error, restarts=n) for n in (0, 6))
        plain = descend(counts, made.scratch, (0,) * len(counts), 5)
    assert best.error <= often.error <= once.error <= best.start
    assert often.error <= (best.error + best.start) / 2
    assert once.choice == plain.choice
