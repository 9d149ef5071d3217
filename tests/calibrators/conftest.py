# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The tiny model and samples for it, for tests that run its parts."""

import pytest
import torch

from qkit.calibration.observe import Batch
from qkit.clip.loading import load_model
from qkit.pipeline.student import prepare

WORDS = ["a dog", "a red cat on a mat", "sky", "two", "x y z", "small blue car", "b", "the end"]


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
