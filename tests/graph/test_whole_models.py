# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The models people use: swapped, covered and restored."""

import pytest
import torch

from qkit.clip.loading import load_model
from qkit.graph.walker import restore
from qkit.pipeline.student import give_points, prepare
from qkit.recipe import Recipe


def check(clip, example):
    known, shape = example(clip), repr(clip.model)
    student = prepare(clip, copy=False)
    for ours, theirs in zip(known.features(student.model), known.before, strict=True):
        assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-5
    coverage = give_points(student, Recipe())
    assert coverage.macs >= 0.99
    assert coverage.weights >= 0.99
    restore(clip.model)
    assert repr(clip.model) == shape
    after = clip.model.state_dict()
    assert list(after) == list(known.state)
    assert all(torch.equal(after[name], known.state[name]) for name in after)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RN50", "ViT-B-32", "ViT-B-16", "ViT-L-14"])
def test_architecture_of_clip(name, example):
    check(load_model(f"{name}:random"), example)


def test_trained_model(testbed, example):
    check(load_model(f"local-dir:{testbed}/vit-tiny-lit"), example)
