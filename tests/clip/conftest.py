# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Seeded values for open_clip's own modules, and a model to prompt."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import qkit
from qkit.clip.model import ClipModel
from qkit.clip.prompting import prompt_encoder
from qkit.pipeline.student import prepare

NAMES = ("dog", "two small cats", "sky")
START, END = 49406, 49407


@pytest.fixture
def fill(normal) -> Callable[[nn.Module], nn.Module]:
    """Add noise to every parameter: those that start at 0 or 1 must be told apart too."""

    def fill(module: nn.Module) -> nn.Module:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(normal(*parameter.shape) / 4)
        return module.eval()

    return fill


@pytest.fixture
def student(tiny):
    """The tiny model, swapped."""
    return prepare(tiny)


@pytest.fixture
def context(normal):
    """Four vectors, large enough to matter."""
    return normal(4, 32) / 5


@pytest.fixture(scope="module")
def quantized(save_run) -> ClipModel:
    """The tiny model at 8 bits."""
    clip = qkit.load(save_run(bits=8)).clip
    clip.model.requires_grad_(False)
    return clip


def features(clip, layout, context):
    with torch.no_grad():
        return prompt_encoder(clip.model, layout, shared=context.ndim == 2)(context)
