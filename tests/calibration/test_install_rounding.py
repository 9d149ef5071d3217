# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Weights whose integers are not the nearest, and what their layers add to their output."""

import re

import pytest
import torch

from calibrators.minmax import MinMax
from qkit.calibration.install import install, install_roundings
from qkit.calibration.observe import observe, set_mode
from qkit.errors import CalibrationError
from qkit.graph.layers import list_points
from qkit.nn.tensor_quantizer import Mode
from qkit.numerics import dequantize
from qkit.progress import ignore
from qkit.spec import PointId, Rounding

LINEAR = "visual.transformer.resblocks.0.mlp.c_fc"
CONV = "visual.conv1"
KEY = PointId(LINEAR, "weight")


@pytest.fixture
def layer_of(student, batches, session_of):
    """Layers of the student with the scales of minmax, by name."""
    observe(student.model, batches, ignore)
    install(student.model, MinMax().calibrate(session_of(student), ignore))
    return student.model.get_submodule


def shifted(layer):
    """Integers one off the nearest, on the grid."""
    point = layer.weight_quantizer
    return (point.integers(layer.weight.detach()) + 1).clamp(max=point.spec.quant_max)


def test_the_layer_multiplies_with_the_integers_it_was_given(student, layer_of):
    layer = layer_of(LINEAR)
    levels = shifted(layer)
    install_roundings(student.model, {KEY: Rounding(levels)})
    point = layer.weight_quantizer
    expected = dequantize(levels, point.qparams, point.spec, axis=0)
    assert torch.equal(layer.quantized_weight(), expected)
    assert torch.equal(point.integers(layer.weight), levels)


@pytest.mark.parametrize(("name", "axis"), [(LINEAR, -1), (CONV, 1)])
def test_a_correction_is_added_to_its_channel_while_the_weight_is_rounded(
    student, layer_of, name, axis, pixels
):
    layer = layer_of(name)
    x = pixels if name == CONV else torch.randn(2, 5, layer.in_features)
    added = torch.arange(layer.weight.shape[0], dtype=torch.float32)
    with torch.no_grad():
        before = layer(x)
        install_roundings(student.model, {PointId(name, "weight"): Rounding(None, added)})
        after = layer(x)
        set_mode(student.model, Mode.OFF)
        floats = layer(x)
    torch.testing.assert_close(after, (before.movedim(axis, -1) + added).movedim(-1, axis))
    assert torch.equal(floats, layer.product(x, layer.weight))


def test_other_scales_drop_what_was_fixed(student, layer_of):
    layer = layer_of(LINEAR)
    point = layer.weight_quantizer
    nearest = layer.quantized_weight().clone()
    install_roundings(student.model, {KEY: Rounding(shifted(layer), torch.ones(256))})
    assert not torch.equal(layer.quantized_weight(), nearest)
    point.set_qparams(point.qparams)
    assert torch.equal(layer.quantized_weight(), nearest)
    assert point.levels is None
    assert point.correction is None


def test_a_new_fixing_replaces_the_old_one(student, layer_of):
    layer = layer_of(LINEAR)
    nearest = layer.quantized_weight().clone()
    install_roundings(student.model, {KEY: Rounding(shifted(layer))})
    layer.quantized_weight()
    install_roundings(student.model, {KEY: Rounding()})
    assert torch.equal(layer.quantized_weight(), nearest)


def outside(layer):
    return Rounding(shifted(layer) + 2 * layer.weight_quantizer.spec.quant_max)


REFUSED = {
    "off the grid": (outside, r"the integers of .*c_fc:weight .* and reach from .* Round to its"),
    "transposed": (lambda layer: Rounding(shifted(layer).T), r"have shape \(64, 256\)"),
    "too short": (lambda _: Rounding(None, torch.zeros(3)), r"correction .* needs 256 finite"),
    "not finite": (lambda _: Rounding(None, torch.full((256,), torch.nan)), "needs 256 finite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_and_nothing_changes(student, layer_of, name):
    make, message = REFUSED[name]
    layer = layer_of(LINEAR)
    before = layer.quantized_weight().clone()
    other = PointId(CONV, "weight")
    good = Rounding(shifted(layer_of(CONV)))
    with pytest.raises(CalibrationError, match=message):
        install_roundings(student.model, {other: good, KEY: make(layer)})
    assert torch.equal(layer.quantized_weight(), before)
    assert all(point.levels is None for point in list_points(student.model))


def test_a_weight_that_is_not_there(student, layer_of):
    key = PointId(CONV, "input")
    with pytest.raises(CalibrationError, match=re.escape(f"rounding of {key} has no weight")):
        install_roundings(student.model, {key: Rounding()})
