# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Learned gains and shifts are installed where they fit, and refused where they do not."""

import pytest
import torch

from calibrators.minmax import MinMax
from qkit.calibration.install import install
from qkit.calibration.observe import observe
from qkit.calibration.session import open_session
from qkit.errors import CalibrationError
from qkit.graph.layers import list_points
from qkit.spec import Affine, PointId

POINT = PointId("visual.transformer.resblocks.0.attn", "input")
GOOD = Affine(torch.linspace(0.5, 1.5, 64), torch.linspace(-1, 1, 64))
BAD = {
    "too few": torch.ones(63),
    "one for all": torch.tensor(1.0),
    "not a number": torch.full((64,), torch.nan),
    "infinite": torch.full((64,), -torch.inf),
}


@pytest.fixture
def chosen(student, batches):
    """Min-max scales of the tiny model, installed."""
    observe(student.model, batches, lambda done: None)
    found = MinMax().calibrate(
        open_session(student.model, student.layers), lambda done, **figures: None
    )
    install(student.model, found)
    return found


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_it_goes_to_its_point_alone_and_the_next_install_takes_it_away(student, chosen):
    before = state(student.model)
    install(student.model, chosen, {POINT: GOOD})
    points = {p.point: p for p in list_points(student.model)}
    with_one = {key for key, p in points.items() if p.gain is not None or p.shift is not None}
    assert with_one == {POINT}
    assert torch.equal(points[POINT].gain, GOOD.gain)
    assert torch.equal(points[POINT].shift, GOOD.shift)
    install(student.model, chosen)
    after = state(student.model)
    assert after.keys() == before.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("what", BAD)
def test_one_that_does_not_fit_is_refused_before_anything_changes(student, chosen, what):
    before = state(student.model)
    wider = {p: q._replace(scale=q.scale * 2) for p, q in chosen.items()}
    for field in Affine._fields:
        with pytest.raises(CalibrationError) as caught:
            install(student.model, wider, {POINT: GOOD._replace(**{field: BAD[what]})})
        assert str(caught.value) == (
            f"the calibrator returned a {field} of shape {tuple(BAD[what].shape)} for {POINT}, "
            "which needs 64 finite values. Return one for every channel of its input."
        )
    after = state(student.model)
    assert after.keys() == before.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_one_for_no_point_is_refused(student, chosen):
    nowhere = PointId("visual.nowhere", "input")
    with pytest.raises(CalibrationError, match=r"gain of shape .* for visual\.nowhere:input"):
        install(student.model, chosen, {nowhere: GOOD})
