# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What towers learn from: samples, crops that are new each time, what the float model makes."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from calibrators.reconstruction.lessons import float_passage, passage, views
from qkit.calibration.bench import Bench
from qkit.calibration.observe import set_mode
from qkit.clip.stages import list_stages
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.student import give_points
from qkit.recipe import Recipe


@pytest.fixture
def bench(student, samples):
    give_points(student, Recipe())
    stages = {"block": list_stages(student.blocks, student.layers, halves=False)}
    return Bench(student.model, student.layers, stages, lambda size: samples, 10.0)


@pytest.fixture
def rigs(bench):
    return {rig.tower: rig for rig in bench.rigs("block", 4, batch=2, keep=True)}


@pytest.mark.parametrize(("tower", "crops"), [("text", 2), ("image", 0)])
def test_without_crops_samples_are_as_they_are(rigs, tower, crops):
    rig = rigs[tower]
    see = views(rig, crops)
    assert all(see(number) is batch for number, batch in enumerate(rig.samples))


def test_crops_are_new_each_time(rigs):
    rig = rigs["image"]
    see = views(rig, 2)
    torch.manual_seed(0)
    visits = [see(0) for _ in range(30)]
    whole = [pixels is rig.samples[0] for pixels in visits]
    assert 3 <= sum(whole) <= 17  # a third of 30, by chance
    crops = [visit for visit, as_is in zip(visits, whole, strict=True) if not as_is]
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(crops))
    assert all(pixels.shape == rig.samples[0].shape for pixels in crops)
    torch.manual_seed(0)
    assert torch.equal(see(0), visits[0])


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_passage_has_every_block_s_end_and_the_embedding(rigs, bench, tower):
    rig = rigs[tower]
    set_mode(bench.model, Mode.OFF)
    stream, ends = rig.enter(quantized=False), []
    for stage in rig.stages:
        stream = rig.run([stage], stream, quantized=False)
        ends.append(stream[0])
    with torch.no_grad():
        expected = F.normalize(getattr(bench.model, f"encode_{tower}")(rig.samples[0]), dim=-1)
    set_mode(bench.model, Mode.QUANTIZE)
    found = float_passage(rig, rig.samples[0])
    assert torch.equal(found.embedding, expected)
    assert len(found.ends) == len(ends) == 2
    for own, other in zip(found.ends, ends, strict=True):
        torch.testing.assert_close(own, other)
    assert all(point.mode is Mode.QUANTIZE for point in rig.points.values())
    assert not any(stage.module._forward_hooks for stage in rig.stages)


def test_a_passage_of_the_model_as_it_is_has_gradients(rigs):
    rig = rigs["image"]
    with torch.enable_grad():
        found = passage(rig, rig.samples[0])
    assert found.embedding.requires_grad
    assert not float_passage(rig, rig.samples[0]).embedding.requires_grad
