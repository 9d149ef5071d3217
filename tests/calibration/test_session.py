# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a calibrator may look at, and what is refused before one is asked."""

import pytest
import torch

from calibrators.minmax import MinMax
from calibrators.mse import Mse
from qkit.calibration.observe import observe
from qkit.errors import CalibrationError
from qkit.graph.layers import list_points
from qkit.recipe import Recipe, override
from qkit.recipe.overrides import Overrides
from qkit.spec import PointId


def silent(done):
    """Swallows progress."""


@pytest.fixture
def observed(make_student, batches, session_of):
    """Session of the tiny model after some of the batches."""

    def make(some=None, recipe=None):
        student = make_student(recipe)
        observe(student.model, batches if some is None else some, silent)
        return session_of(student)

    return make


def test_a_session_has_every_point_once(student, batches, session_of):
    observe(student.model, batches, silent)
    session = session_of(student)
    assert {p.point: p.spec for p in list_points(student.model)} == dict(session.points)
    assert session.points.keys() == session.seen.keys()
    for point in session.points:
        stats = session.stats(point)
        assert (stats.values is not None) == (point.role == "weight")
        assert (stats.histogram is not None) == (point.role != "weight")


def test_a_weight_comes_with_its_values(student, batches, session_of):
    observe(student.model, batches, silent)
    stats = session_of(student).stats(PointId("visual.conv1", "weight"))
    weight = student.model.visual.conv1.weight.detach()
    assert torch.equal(stats.values, weight.flatten(1))
    assert torch.equal(stats.min_val, weight.flatten(1).amin(1))


def test_per_token_points_are_left_out(make_student, batches, session_of):
    student = make_student(override(Recipe(), Overrides(act_granularity="token")))
    observe(student.model, batches, silent)
    roles = {point.role for point in session_of(student).points}
    assert roles == {"weight", "query", "key", "value", "probs"}


def test_unknown_point(observed):
    fact = r"^no statistics for nowhere:input\. Ask only for points of the session"
    with pytest.raises(CalibrationError, match=fact):
        observed().stats(PointId("nowhere", "input"))


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_two_halves_merge_to_the_whole(observed, batches, granularity):
    recipe = override(Recipe(), Overrides(act_granularity=granularity))
    whole = observed(recipe=recipe)
    first, second = observed(batches[:2], recipe), observed(batches[2:], recipe)
    for merged in (first.merge(second), second.merge(first)):
        assert merged.points == whole.points
        for point in whole.points:
            mine, other = merged.stats(point), whole.stats(point)
            assert torch.equal(mine.min_val, other.min_val)
            assert torch.equal(mine.max_val, other.max_val)
            if other.histogram is not None:
                mass, total = mine.histogram.counts.sum(-1), other.histogram.counts.sum(-1)
                torch.testing.assert_close(mass, total)


def test_scales_of_merged_halves_are_those_of_the_whole(observed, batches):
    whole, merged = observed(), observed(batches[:2]).merge(observed(batches[2:]))
    exact, same = (MinMax().calibrate(session, silent) for session in (whole, merged))
    assert all(torch.equal(exact[point].scale, same[point].scale) for point in exact)
    best, near = (Mse().calibrate(session, silent) for session in (whole, merged))
    for point in best:
        torch.testing.assert_close(best[point].scale, near[point].scale, rtol=0.15, atol=0.0)


def test_sessions_of_different_points_do_not_merge(observed):
    other = observed(recipe=override(Recipe(), Overrides(bits=4)))
    fact = r"^sessions of different points cannot be merged\. Use one model and recipe"
    with pytest.raises(CalibrationError, match=fact):
        observed().merge(other)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("layer", ["visual.proj", "token_embedding"])
def test_a_bad_weight_names_its_layer(student, batches, session_of, layer, value):
    observe(student.model, batches, silent)
    with torch.no_grad():
        student.model.get_submodule(layer).weight[3:5, 1] = value
    channels = len(student.model.get_submodule(layer).weight)
    fact = rf"^{layer}:weight holds NaN or infinite values in 2 of {channels} channels\. .*ignore"
    with pytest.raises(CalibrationError, match=fact):
        session_of(student)


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_constant_activation_is_named(student, batches, session_of, value):
    for batch in batches:
        batch.images.fill_(value)
    observe(student.model, batches, silent)
    fact = rf"^visual.conv1:input is constant: every value is {value:g}, a range of zero width\. U"
    with pytest.raises(CalibrationError, match=fact):
        session_of(student)


def test_a_model_that_was_not_observed(student, session_of):
    fact = r"^visual.conv1:input saw no data\. Run calibration data through the model first"
    with pytest.raises(CalibrationError, match=fact):
        session_of(student)
