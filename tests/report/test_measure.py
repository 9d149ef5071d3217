# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Measuring looks and changes nothing; what it finds is exact where one can tell."""

import math

import pytest
import torch

from qkit.calibration.observe import Batch, set_mode
from qkit.graph.layers import list_points
from qkit.nn.tensor_quantizer import Mode, TensorQuantizer
from qkit.recipe import Recipe, SchemeRule
from qkit.report.build import Known, build_reports
from qkit.report.diagnose import diagnose
from qkit.report.measure import measure
from qkit.report.sums import InputSums
from qkit.spec import Granularity, PointId, QParams, QuantSpec, Scheme
from tests.report.conftest import bits, features

IGNORED = ("visual.conv1", "*.resblocks.1.attn.*")
IGNORING = Recipe(rules=(*(SchemeRule(name, scheme=Scheme()) for name in IGNORED), SchemeRule()))


def silent(done, **figures):
    """Swallows progress."""


def measured(student, batches, told=silent):
    """The sums of a student's layers and blocks."""
    return measure(student.model, student.layers, student.blocks, batches, told)


@pytest.fixture
def report(quantize, batches):
    """Reports by layer name at some bits."""

    def run(recipe):
        student = quantize(recipe)
        found = measured(student, batches)
        closer = diagnose(student.model, student.layers, student.blocks, batches[0], found)
        known = Known(quantize.seen, student.macs, found, closer)
        layers, _ = build_reports(student.layers, student.blocks, known)
        return {layer.name: layer for layer in layers}

    return run


@pytest.mark.parametrize("granularity", ["tensor", "channel", "token"])
def test_features_and_modes_are_as_before(quantize, batches, granularity):
    student = quantize(bits(4, granularity))
    before = features(student.model, batches[0])
    told = []
    measured(student, batches, lambda done, **figures: told.append((done, set(figures))))
    assert told == [(7, {"image", "text"}), (5, {"image", "text"})]
    assert all(map(torch.equal, before, features(student.model, batches[0])))
    assert {point.mode for point in list_points(student.model)} == {Mode.QUANTIZE}
    assert not any(module._forward_hooks for module in student.model.modules())


def test_only_the_quantized_pass_counts_as_firing(quantize, batches):
    student = quantize(bits(4))
    before = [point.fired for point in list_points(student.model)]
    measured(student, batches)
    after = [point.fired for point in list_points(student.model)]
    assert after == [fired + len(batches) for fired in before]


def test_modes_and_hooks_are_as_before_after_an_interruption(quantize, batches):
    student = quantize(bits(4))
    before = features(student.model, batches[0])
    broken = Batch(batches[0].images[:, :2], None)
    with pytest.raises(RuntimeError, match="channels"):
        measured(student, [broken])
    assert not any(module._forward_hooks for module in student.model.modules())
    assert all(map(torch.equal, before, features(student.model, batches[0])))


def test_eight_bits_are_nearer_than_two_everywhere(report):
    eight, two = report(bits(8)), report(bits(2))
    for name, layer in eight.items():
        assert layer.local_sqnr_db > two[name].local_sqnr_db
        assert layer.cumulative_sqnr_db > two[name].cumulative_sqnr_db
        if layer.kind != "attention":
            assert layer.weight_sqnr_db > two[name].weight_sqnr_db > 0
        assert layer.local_sqnr_db > 20
        assert 0.99 < layer.cosine <= 1.0000001


@pytest.mark.parametrize("first", ["visual.conv1", "token_embedding"])
def test_nothing_arrives_wrong_at_the_first_layer(report, first):
    layer = report(bits(4))[first]
    assert layer.local_sqnr_db == layer.cumulative_sqnr_db
    assert math.isfinite(layer.local_sqnr_db)


def test_float_layers_lose_nothing_of_their_own(report):
    found = report(IGNORING)
    conv = found["visual.conv1"]
    assert conv.local_sqnr_db == conv.cumulative_sqnr_db == math.inf
    assert (conv.weight_bits, conv.act_bits, conv.weight_sqnr_db) == (None, None, None)
    assert conv.clipped is None
    assert conv.cosine == pytest.approx(1.0)
    for part in ("q_proj", "sdpa"):
        later = found[f"visual.transformer.resblocks.1.attn.{part}"]
        assert later.local_sqnr_db == math.inf
        assert math.isfinite(later.cumulative_sqnr_db)


@pytest.mark.parametrize("name", ["0.mlp.c_fc", "0.attn.k_proj", "1.attn.sdpa"])
def test_the_layer_s_own_fault_is_what_it_does_alone(quantize, batches, name):
    """Local SQNR by hand: one layer quantized by itself, fed with its float input."""
    student = quantize(bits(4))
    name = f"visual.transformer.resblocks.{name}"
    module = student.model.get_submodule(name)
    shared = student.model.visual.transformer.resblocks[0].attn.input_quantizer
    sums = measured(student, batches).layers[name]
    seen = []
    set_mode(student.model, Mode.OFF)
    handle = module.register_forward_hook(lambda _, inputs, out: seen.append((inputs, out)))
    for batch in batches:
        features(student.model, batch)
    handle.remove()
    set_mode(student.model, Mode.QUANTIZE)
    with torch.no_grad():
        if name.endswith("k_proj"):
            seen = [((shared(inputs[0]),), out) for inputs, out in seen]
        noise = sum((module(*x) - out).double().square().sum().item() for x, out in seen)
    signal = sum(out.double().square().sum().item() for _, out in seen)
    assert sums.local.noise == pytest.approx(noise, rel=1e-5)
    assert sums.local.signal == pytest.approx(signal, rel=1e-5)


def test_the_embeddings_cosine_is_their_mean(quantize, batches):
    student = quantize(bits(3))
    found = measured(student, batches).embedding_cosine
    after = [features(student.model, batch) for batch in batches]
    set_mode(student.model, Mode.OFF)
    before = [features(student.model, batch) for batch in batches]
    for i, tower in enumerate(("image", "text")):
        one, other = (torch.cat([pair[i] for pair in pairs]) for pairs in (before, after))
        assert found[tower] == pytest.approx(torch.cosine_similarity(one, other).mean().item())


def test_clipped_values_are_counted_exactly():
    point = TensorQuantizer(PointId("a", "input"), QuantSpec(2), axis=-1)  # integers 0 to 3
    point.set_qparams(QParams(torch.tensor(0.5), torch.tensor(1, dtype=torch.int32)))
    x = torch.tensor([[-9.0, -0.76, -0.75, -0.5, 0.0], [1.0, 1.24, 1.25, 1.26, 70.0]])
    sums = InputSums()
    sums.add_clipping(x, point)
    assert (sums.clipped, sums.values) == (4, 10)


@pytest.mark.parametrize(("axis", "clipped"), [(-1, 2), (0, 1)])
def test_clipped_values_by_channel(axis, clipped):
    spec = QuantSpec(2, symmetric=True, granularity=Granularity.CHANNEL)  # integers -2 to 1
    point = TensorQuantizer(PointId("a", "input"), spec, axis)
    point.set_qparams(QParams(torch.tensor([1.0, 10.0]), torch.zeros(2, dtype=torch.int32)))
    sums = InputSums()
    sums.add_clipping(torch.tensor([[-3.0, 0.0], [9.0, -3.0]]), point)
    assert (sums.clipped, sums.values) == (clipped, 4)


def test_min_max_clips_nothing_and_a_halved_scale_does(quantize, batches):
    student = quantize(bits(8))
    point = student.model.visual.conv1.input_quantizer
    found = measured(student, batches)
    assert found.layers["visual.conv1"].input.clipped == 0
    scale, zero_point = point.qparams
    point.set_qparams(QParams(scale / 2, zero_point))
    x = torch.cat([batch.images for batch in batches])
    low, high = (-zero_point - 0.5) * scale / 2, (255 - zero_point + 0.5) * scale / 2
    found = measured(student, batches)
    assert found.layers["visual.conv1"].input.clipped == int(((x < low) | (x > high)).sum()) > 0
