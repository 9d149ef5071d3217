# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The tiny model with points, and inputs for its towers."""

import pytest
import torch

from qkit.calibration.observe import Batch
from qkit.calibration.session import open_session
from qkit.pipeline.student import give_points, prepare
from qkit.recipe import Recipe


@pytest.fixture
def make_student(tiny):
    """The tiny model with the points of a recipe, 8 bits everywhere by default."""

    def make(recipe=None):
        student = prepare(tiny)
        give_points(student, recipe or Recipe())
        return student

    return make


@pytest.fixture
def student(make_student):
    """The tiny model with points at 8 bits."""
    return make_student()


@pytest.fixture
def batches(tiny):
    """Four batches of two images and two texts each."""
    generator = torch.Generator().manual_seed(5)
    words = ["a dog", "a red cat on a mat", "sky", "two", "x y z", "small blue car", "b", "the end"]
    return [
        Batch(torch.randn(2, 3, 32, 32, generator=generator), tiny.tokenizer(words[i : i + 2]))
        for i in range(0, 8, 2)
    ]


@pytest.fixture
def session_of():
    """What calibration sees of a student that was observed."""
    return lambda student: open_session(student.model, student.layers)
