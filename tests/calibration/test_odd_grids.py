# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Grids that are not uniform between observing and running: what fits them, and what is refused."""

import pytest
import torch

from calibrators.minmax import MinMax
from qkit.calibration.coordinates import can_transform, install_transforms
from qkit.calibration.install import install
from qkit.calibration.observe import observe
from qkit.errors import CalibrationError
from qkit.graph.layers import list_points
from qkit.recipe import parse_recipe
from qkit.spec import PointId, QParams
from qkit.transform import Transform

C_PROJ = "visual.transformer.resblocks.0.mlp.c_proj"
PROBS = PointId("visual.transformer.resblocks.0.attn.sdpa", "probs")


def silent(done):
    """Swallows progress."""


def recipe(inputs="twin-signed", match="*.mlp.c_proj"):
    return parse_recipe(
        {
            "rule": [
                {"match": match, "input": {"bits": 6, "grid": inputs}},
                {"probs": {"bits": 4, "grid": "log"}},
            ]
        }
    )


@pytest.fixture
def chosen(make_student, batches, session_of):
    """A student with odd grids, observed, and its scales."""
    student = make_student(recipe())
    observe(student.model, batches, silent)
    return student, dict(MinMax().calibrate(session_of(student), silent))


def test_scales_and_parameters_are_installed(chosen):
    student, scales = chosen
    install(student.model, scales)
    odd = [point for point in list_points(student.model) if not point.spec.uniform]
    assert {point.point.role for point in odd} == {"input", "probs"}
    for point in odd:
        assert all(map(torch.equal, point.qparams, scales[point.point]))


def test_a_parameter_that_no_such_grid_has_is_refused(chosen):
    student, scales = chosen
    scales[PROBS] = QParams(scales[PROBS].scale, torch.tensor(5, dtype=torch.int32))
    with pytest.raises(CalibrationError) as caught:
        install(student.model, scales)
    assert str(caught.value) == (
        f"the calibrator returned zero point 5 for {PROBS}, whose grid = 'log' needs one of: "
        "1, 2, 3, 4, 6, 8, 12, 16, 24, 32. Return what qkit.grids.fit chooses."
    )


def test_a_tensor_that_reaches_below_its_grid_is_refused_by_name(make_student, batches, session_of):
    student = make_student(recipe("shifted-log", "*.mlp.c_fc"))
    observe(student.model, batches, silent)
    with pytest.raises(CalibrationError, match=r"c_fc:input reaches -\d.*'shifted-log'.*a GELU"):
        session_of(student)


def test_after_a_gelu_it_does_not(make_student, batches, session_of):
    student = make_student(recipe("shifted-log"))
    observe(student.model, batches, silent)
    assert PointId(C_PROJ, "input") in session_of(student).points


def test_coordinates_pass_such_inputs_by_and_are_refused_there(make_student):
    student = make_student(recipe())
    (layer,) = (la for la in student.layers if la.name == C_PROJ)
    (point,) = layer.input_quantizers
    assert not can_transform(layer, point.spec)
    with pytest.raises(CalibrationError, match=r"c_proj:input has .* grid = 'twin-signed'"):
        install_transforms(student.layers, {point.point: Transform(shift=torch.ones(layer.reads))})
    assert point.transform is None
