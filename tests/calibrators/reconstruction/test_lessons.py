# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What towers learn from: samples as they are, crops that are new each time, float embeddings."""

import itertools

import pytest
import torch

from calibrators.reconstruction.lessons import embedding, embeddings, lessons
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
    targets = embeddings(rig)
    learn = lessons(rig, targets, crops)
    for number, (batch, wanted) in enumerate(zip(rig.samples, targets, strict=True)):
        seen, found = learn(number)
        assert seen is batch
        assert found is wanted


def test_crops_are_new_each_time_and_so_are_their_embeddings(rigs):
    rig = rigs["image"]
    learn = lessons(rig, embeddings(rig), 2)
    torch.manual_seed(0)
    visits = [learn(0) for _ in range(30)]
    whole = [pixels is rig.samples[0] for pixels, _ in visits]
    assert 3 <= sum(whole) <= 17  # a third of 30, by chance
    crops = [visit[0] for visit, as_is in zip(visits, whole, strict=True) if not as_is]
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(crops))
    for pixels, wanted in visits[:6]:
        torch.testing.assert_close(wanted, embedding(rig, pixels))
        torch.testing.assert_close(wanted.norm(dim=-1), torch.ones(len(pixels)))
    torch.manual_seed(0)
    assert torch.equal(learn(0)[0], visits[0][0])


def test_embeddings_are_the_float_model_s(rigs, bench):
    rig = rigs["image"]
    set_mode(bench.model, Mode.OFF)
    with torch.no_grad():
        expected = torch.nn.functional.normalize(bench.model.encode_image(rig.samples[0]), dim=-1)
    set_mode(bench.model, Mode.QUANTIZE)
    assert torch.equal(embedding(rig, rig.samples[0]), expected)
    assert all(point.mode is Mode.QUANTIZE for point in rig.points.values())
