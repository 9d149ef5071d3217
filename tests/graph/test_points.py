# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Points can be taken from a model and given back, one layer at a time."""

from pathlib import Path

import pytest
import torch

import qkit
from qkit.calibration.observe import set_mode
from qkit.graph.layers import list_points
from qkit.graph.points import put_points, take_points
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.student import give_points
from qkit.recipe import Recipe, SchemeRule


@pytest.fixture
def calibrated(tiny_folder: Path, shapes: Path):
    few = qkit.Overrides(samples=6)
    data = f"captions:{shapes}/captions.csv"
    return qkit.calibrate(f"local-dir:{tiny_folder}", data, bits=4, method="minmax", overrides=few)


def test_given_back_they_compute_what_they_did(calibrated, pixels, tokens):
    student = calibrated.student

    def features():
        with torch.no_grad():
            model = student.model
            return torch.cat([model.encode_image(pixels), model.encode_text(tokens)])

    before, points = features(), list_points(student.model)
    taken = take_points(student.layers)
    give_points(student, calibrated.recipe)
    set_mode(student.model, Mode.OFF)
    assert not torch.equal(features(), before)
    for layer in student.layers:
        put_points(layer, taken[layer.name])
    assert list_points(student.model) == points
    assert torch.equal(features(), before)


def test_what_had_none_gets_none_back(calibrated):
    student = calibrated.student
    taken = take_points(student.layers)
    bare = Recipe(rules=(SchemeRule("text_projection"),))
    give_points(student, bare)
    some = take_points(student.layers)
    for points in (taken, some):
        for layer in student.layers:
            put_points(layer, points[layer.name])
    assert [p.point.module for p in list_points(student.model)] == ["text_projection"] * 2
