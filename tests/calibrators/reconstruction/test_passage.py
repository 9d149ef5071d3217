# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What towers make of samples on their way: every block's end, and the embedding."""

import pytest
import torch
import torch.nn.functional as F

from calibrators.reconstruction.passage import float_passage, passage
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
