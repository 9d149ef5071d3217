# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The entropy calibrator as a whole, on the tiny model and through the pipeline."""

import itertools
from functools import partial

import pytest
import torch

import qkit
from calibrators.entropy import Entropy
from calibrators.entropy.partition import grow, threshold_of
from calibrators.mse import Mse
from qkit.calibration.install import install
from qkit.calibration.observe import set_mode
from qkit.errors import RegistryError
from qkit.graph.layers import list_points
from qkit.nn.tensor_quantizer import Mode
from qkit.testing import check_calibrator, example_session

QUICK = {"samples": 4, "percentiles": (1.0, 0.98), "factors": (), "rows": 64}


def silent(done, **figures):
    """Swallows progress."""


def choose(session, **options):
    return Entropy(**QUICK | options).calibrate(session, silent)


def groups(found, tower):
    """Sizes of the groups of one tower."""
    numbers = [note.group for note in found.stages if note.tower == tower]
    assert numbers == sorted(numbers)
    return [len(list(part)) for _, part in itertools.groupby(numbers)]


def same(one, other):
    return one.keys() == other.keys() and all(
        all(map(torch.equal, one[point], other[point])) for point in one
    )


def test_the_contract():
    check_calibrator(Entropy)


def test_statistics_alone_give_the_least_error_of_each_tensor():
    session = example_session()
    assert same(Entropy().calibrate(session, silent), Mse().calibrate(session, silent))


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"span": "quarter"}, r"span = 'quarter'\. Use one of half, block\."),
        ({"partition": "even"}, r"partition = 'even'\. Use one of entropy, fixed, random\."),
        ({"objective": "mse"}, r"objective = 'mse'\. Use one of importance, plain\."),
        ({"samples": 0}, r"samples = 0\. Use 1 or more\."),
        ({"max_layers": 0}, r"max_layers = 0\. Use 1 or more\."),
        ({"sweeps": -1}, r"sweeps = -1\. Use 1 or more\."),
        ({"rows": 0}, r"rows = 0\. Use 1 or more\."),
        ({"threshold": "foo"}, r"threshold = 'foo'\. Use 'mean', a number, or a quantile"),
        ({"threshold": "q1.5"}, r"threshold = 'q1\.5'\. Use 'mean', a number, or a quantile"),
    ],
)
def test_options_that_are_refused(options, fact):
    with pytest.raises(ValueError, match=f"^{fact}"):
        Entropy(**options)


def test_a_refusal_reaches_the_user_before_any_work(tiny):
    flags = qkit.Overrides(method="entropy", options={"threshold": "foo"})
    with pytest.raises(RegistryError, match=r"^method 'entropy' refuses its options: threshold ="):
        qkit.calibrate(tiny, "images:/nowhere", overrides=flags)


def test_a_scale_for_every_point_and_progress_for_each(open_bench):
    session, steps = open_bench(), []
    found = Entropy(**QUICK).calibrate(session, lambda n, **_: steps.append(n))
    assert found.keys() == session.points.keys()
    assert sum(steps) == len(session.points)
    assert len(steps) > 2


def test_the_float_model_is_as_it_was(open_bench, student, samples):
    def features():
        with torch.no_grad():
            pairs = [(model.encode_image(b.images), model.encode_text(b.texts)) for b in samples]
        return [x for pair in pairs for x in pair]

    model = student.model
    session = open_bench()
    state = {name: p.clone() for name, p in model.named_parameters()}
    before = features()
    found = choose(session)
    assert {point.mode for point in list_points(model)} == {Mode.OFF}
    assert all(map(torch.equal, before, features()))
    assert all(torch.equal(state[name], p) for name, p in model.named_parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    install(model, found)
    assert not any(map(torch.equal, before, features()))
    set_mode(model, Mode.OFF)


def test_notes_tell_the_partition_that_the_rule_gives(open_bench):
    found = choose(open_bench(), max_layers=3)
    for tower in ("image", "text"):
        notes = [note for note in found.stages if note.tower == tower]
        dependencies = [note.dependency for note in notes[:-1]]
        assert notes[-1].dependency is None
        assert found.threshold[tower] == threshold_of(dependencies, "mean")
        expected = [len(b) for b in grow(dependencies, found.threshold[tower], 3)]
        assert groups(found, tower) == expected
        assert all(0 < note.error <= note.start for note in notes)


def test_partitions_and_spans(open_bench):
    session = open_bench()
    quick = partial(choose, session, samples=2, objective="plain", percentiles=(0.98,))
    alone, fixed = quick(max_layers=1), quick(partition="fixed")
    grown, whole = quick(threshold=0.0), quick(threshold=99.0)
    drawn = quick(partition="random", threshold=0.0, seed=1)
    blocks = quick(span="block", threshold=0.0)
    for tower in ("image", "text"):
        assert groups(alone, tower) == groups(whole, tower) == [1, 1, 1, 1]
        assert groups(fixed, tower) == groups(grown, tower) == [3, 1]
        assert sorted(groups(drawn, tower)) == [1, 3]
        assert groups(blocks, tower) == [2]
    assert same(alone, whole)
    assert same(fixed, grown)
    assert not same(alone, grown)


def test_the_same_every_time_and_another_for_another_seed(open_bench):
    session = open_bench()
    one, again, other = (choose(session, seed=seed) for seed in (0, 0, 1))
    assert same(one, again)
    assert one.stages == again.stages
    assert not same(one, other)


def test_what_came_before_does_not_count(open_bench):
    """The model is left with scales on trial; the next run must not build on them."""
    session = open_bench()
    first = choose(session)
    choose(session, threshold=0.0, objective="plain", percentiles=(0.98,), samples=2)
    assert same(choose(session), first)
