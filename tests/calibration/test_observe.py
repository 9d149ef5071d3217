# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The observing pass: every point fires, nothing is kept, bad data are refused by name."""

import re

import pytest
import torch

from qkit.calibration.observe import Batch, check_fired, observe, set_mode
from qkit.errors import CalibrationError
from qkit.graph.layers import list_points
from qkit.nn.tensor_quantizer import Mode


def silent(done):
    """Swallows progress."""


def kept(model):
    """Elements of all tensors that the observers of ``model`` hold."""
    observers = [p.observer for p in list_points(model) if p.observer is not None]
    return sum(t.numel() for o in observers for t in o.state_dict().values())


def activations(student):
    return [p for p in list_points(student.model) if p.point.role != "weight"]


def test_every_point_fires_once_a_batch(student, batches):
    assert {point.fired for point in list_points(student.model)} == {0}
    told = []
    assert observe(student.model, batches, told.append) == 16
    assert told == [4, 4, 4, 4]
    assert {point.fired for point in list_points(student.model)} == {len(batches)}


def test_observing_changes_no_result(student, tiny, batches):
    images, texts = batches[0]
    with torch.no_grad():
        before = tiny.model.encode_image(images), tiny.model.encode_text(texts)
        set_mode(student.model, Mode.OBSERVE)
        after = student.model.encode_image(images), student.model.encode_text(texts)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_all_points_are_off_afterwards(student, batches):
    observe(student.model, batches, silent)
    assert {point.mode for point in list_points(student.model)} == {Mode.OFF}


def test_all_points_are_off_after_an_interruption(student, batches):
    def interrupt(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        observe(student.model, batches, interrupt)
    assert {point.mode for point in list_points(student.model)} == {Mode.OFF}


def test_no_activations_are_kept(student, batches):
    observe(student.model, batches[:1], silent)
    after_one = kept(student.model)
    assert after_one > 0
    observe(student.model, batches[1:] * 2, silent)
    assert kept(student.model) == after_one


def test_weights_are_not_observed_but_read(student, batches):
    observe(student.model, batches, silent)
    points = list_points(student.model)
    assert all((p.observer is None) == (p.point.role == "weight") for p in points)


def test_in_two_goes_as_in_one(make_student, batches):
    whole, halves = make_student(), make_student()
    observe(whole.model, batches, silent)
    assert observe(halves.model, batches[:1], silent) == 4
    assert observe(halves.model, batches[1:], silent) == 12
    for one, other in zip(activations(whole), activations(halves), strict=True):
        assert one.point == other.point
        assert torch.equal(one.stats().min_val, other.stats().min_val)
        assert torch.equal(one.stats().max_val, other.stats().max_val)
        assert torch.equal(one.stats().histogram.counts, other.stats().histogram.counts)


def test_the_split_of_the_batches_does_not_move_the_range(make_student, batches):
    whole, parts = make_student(), make_student()
    images, texts = (torch.cat(column) for column in zip(*batches, strict=True))
    observe(whole.model, [Batch(images, texts)], silent)
    observe(parts.model, batches, silent)
    for one, other in zip(activations(whole), activations(parts), strict=True):
        torch.testing.assert_close(one.stats().min_val, other.stats().min_val, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.stats().max_val, other.stats().max_val, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("drop", ["images", "texts"])
def test_points_that_never_fired_are_named(student, batches, drop):
    half = [batch._replace(**{drop: None}) for batch in batches]
    names = [str(point.point) for point in list_points(student.model)]
    names = [name for name in names if name.startswith("visual.") == (drop == "images")]
    shown = re.escape(f"{', '.join(names[:5])} and {len(names) - 5} more")
    fact = rf"^{len(names)} enabled points never fired: {shown}\. .* leave them in float with an ig"
    with pytest.raises(CalibrationError, match=fact):
        observe(student.model, half, silent)


def test_few_points_that_never_fired_are_all_named(student, batches):
    observe(student.model, batches, silent)
    points = list_points(student.model)
    points[1].fired = points[3].fired = 0
    names = f"{points[1].point}, {points[3].point}"
    with pytest.raises(CalibrationError, match=rf"^2 enabled points never fired: {names}\. The"):
        check_fired(student.model)


@pytest.mark.parametrize("data", [[], [Batch(None, None)]], ids=["nothing", "empty batch"])
def test_no_data(student, data):
    with pytest.raises(
        CalibrationError, match=r"was no calibration data\. Give at least one image"
    ):
        observe(student.model, data, silent)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_bad_pixels_name_the_point(student, batches, value):
    batches[2].images[1, 0, 3, 3] = value
    fact = "^visual.conv1:input holds NaN or infinite values during calibration. .*ignore rule"
    with pytest.raises(CalibrationError, match=fact):
        observe(student.model, batches, silent)


def test_an_overflow_inside_names_the_first_point_behind_it(student, batches):
    with torch.no_grad():
        student.model.visual.transformer.resblocks[1].mlp.c_fc.bias.fill_(float("inf"))
    fact = r"^visual.transformer.resblocks.1.mlp.c_proj:input holds NaN or infinite values"
    with pytest.raises(CalibrationError, match=fact):
        observe(student.model, batches, silent)


def test_set_mode_switches_every_point(student):
    for mode in Mode:
        set_mode(student.model, mode)
        assert {point.mode for point in list_points(student.model)} == {mode}


def test_size_of_a_batch():
    assert Batch(torch.zeros(2, 3, 4, 4), torch.zeros(5, 7)).size == 7
    assert Batch(None, torch.zeros(5, 7)).size == 5
    assert Batch(None, None).size == 0
