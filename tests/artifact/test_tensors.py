# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Which tensors a run folder stores, and how many bytes each takes."""

import json
import math

import pytest
import torch

import qkit
from qkit.artifact.tensors import from_tensors, install_stored, to_tensors
from qkit.errors import ArtifactError
from qkit.graph.layers import list_points
from qkit.nn.layer import QuantLayer
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.student import give_points, prepare
from qkit.recipe.overrides import Overrides


@pytest.fixture
def calibrate(tiny, shapes):
    """The tiny model at some bits of weights."""

    def run(weight_bits, **flags):
        flags = Overrides(samples=4, method="minmax", weight_bits=weight_bits, **flags)
        return qkit.calibrate(tiny, f"captions:{shapes}/captions.csv", overrides=flags)

    return run


def stored(result):
    return to_tensors(result.model, result.student.layers)


def payload(path):
    """Bytes of all tensors of a safetensors file, without its header."""
    content = path.read_bytes()
    header = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + header])
    entries.pop("__metadata__", None)
    size = sum(end - start for start, end in (e["data_offsets"] for e in entries.values()))
    assert len(content) == 8 + header + size
    return size


def weights(result):
    modules = [(layer.name, layer.module) for layer in result.student.layers]
    return {n: m.weight.numel() for n, m in modules if isinstance(m, QuantLayer)}


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_weight_takes_its_bits_and_no_more(calibrate, bits):
    result = calibrate(bits)
    tensors = stored(result)
    packed = tensors["visual.transformer.resblocks.0.mlp.c_fc.weight.packed"]
    assert packed.dtype == torch.uint8
    assert packed.shape == (64 * 256 * bits // 8,)
    sizes = {name: len(tensors[f"{name}.weight.packed"]) for name in weights(result)}
    assert sizes == {n: math.ceil(count * bits / 8) for n, count in weights(result).items()}


def test_from_eight_to_four_bits_every_weight_halves_and_nothing_else(calibrate, tmp_path):
    results = {bits: calibrate(bits) for bits in (4, 8)}
    for bits, result in results.items():
        result.save(tmp_path / str(bits))
    four, eight = (payload(tmp_path / str(bits) / "model.safetensors") for bits in (4, 8))
    assert eight - four == sum(weights(results[8]).values()) // 2
    assert four < results[4].report.size["float_bytes"] / 5


def test_no_float_copy_of_a_quantized_weight_is_kept(calibrate):
    result = calibrate(4)
    tensors = stored(result)
    assert not any(f"{name}.weight" in tensors for name in weights(result))
    floats = sum(t.numel() for t in tensors.values() if t.dtype == torch.float32)
    rest = sum(p.numel() for p in result.model.parameters()) - sum(weights(result).values())
    scales = sum(t.numel() for n, t in tensors.items() if n.endswith(".scale"))
    buffers = sum(t.numel() for t in result.model.buffers() if t.dtype == torch.float32) - scales
    assert floats <= rest + scales + buffers


def test_zero_points_are_stored_where_they_can_be_other_than_zero(calibrate):
    tensors = stored(calibrate(4))
    assert "visual.conv1:input.zero_point" in tensors
    assert "visual.conv1:weight.scale" in tensors
    assert "visual.conv1:weight.zero_point" not in tensors


def test_per_token_points_store_nothing(calibrate):
    tensors = stored(calibrate(8, act_granularity="token"))
    assert not any(":input" in name for name in tensors)
    assert "transformer.resblocks.0.attn.sdpa:probs.scale" in tensors


@pytest.mark.parametrize(
    "name",
    ["visual.conv1.weight.packed", "visual.conv1:input.scale", "visual.ln_pre.weight"],
)
def test_a_missing_tensor_is_named(calibrate, name):
    result = calibrate(4)
    tensors = stored(result)
    del tensors[name]
    fact = rf"^the stored tensors do not fit the model they name \('{name}'\)\. Calibrate again"
    with pytest.raises(ArtifactError, match=fact):
        from_tensors(result.model, result.student.layers, tensors)


def test_a_tensor_left_over_is_named(calibrate):
    result = calibrate(4)
    tensors = {**stored(result), "visual.extra": torch.zeros(1)}
    with pytest.raises(ArtifactError, match=r"do not fit .* \('visual.extra'\)"):
        from_tensors(result.model, result.student.layers, tensors)


@pytest.mark.parametrize("name", ["visual.conv1.weight.packed", "visual.ln_pre.weight"])
def test_a_tensor_of_the_wrong_size(calibrate, name):
    result = calibrate(4)
    tensors = stored(result)
    tensors[name] = tensors[name][:-8]
    with pytest.raises(ArtifactError, match="do not fit the model they name"):
        from_tensors(result.model, result.student.layers, tensors)


@pytest.mark.parametrize("name", ["visual.conv1:weight.scale", "visual.conv1:input.scale"])
def test_a_scale_of_the_wrong_shape(calibrate, name):
    result = calibrate(4)
    tensors = {**stored(result), name: torch.ones(5)}
    with pytest.raises(ArtifactError, match="do not fit the model they name"):
        from_tensors(result.model, result.student.layers, tensors)


@pytest.fixture
def bare(tiny):
    """The float model with points that have no scales yet, made as a result's were."""

    def give(result):
        student = prepare(tiny)
        give_points(student, result.recipe)
        return student

    return give


@pytest.mark.parametrize("flags", [{}, {"act_granularity": "token"}])
def test_stored_scales_go_to_the_points_and_weights_stay_float(calibrate, bare, flags):
    result = calibrate(4, **flags)
    student = bare(result)
    before = {name: value.clone() for name, value in student.model.named_parameters()}
    tensors = stored(result)
    names = set(tensors)
    install_stored(student.model, student.layers, tensors)
    assert set(tensors) == names
    assert all(torch.equal(before[n], value) for n, value in student.model.named_parameters())
    pairs = zip(list_points(student.model), list_points(result.model), strict=True)
    for mine, other in pairs:
        assert mine.mode is Mode.QUANTIZE
        if not mine.spec.dynamic:
            assert all(map(torch.equal, mine.qparams, other.qparams))
    again = to_tensors(student.model, student.layers)
    assert again.keys() == names
    assert all(torch.equal(again[name], tensors[name]) for name in names)


@pytest.mark.parametrize("name", ["visual.conv1:input.scale", "visual.conv1:input.zero_point"])
def test_a_stored_scale_that_is_missing_or_misshapen_is_refused(calibrate, bare, name):
    result = calibrate(4)
    for broken in ({}, {name: torch.ones(5)}):
        tensors = stored(result)
        del tensors[name]
        student = bare(result)
        with pytest.raises(ArtifactError, match=r"do not fit .*visual.conv1:input"):
            install_stored(student.model, student.layers, tensors | broken)
