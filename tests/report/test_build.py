# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What is put together of a layer, against the tensors themselves."""

import math

import pytest
import torch

from qkit.calibration.observe import set_mode
from qkit.nn.tensor_quantizer import Mode
from qkit.recipe import Recipe, SchemeRule, override
from qkit.recipe.overrides import Overrides
from qkit.report.build import Known, build_reports
from qkit.report.diagnose import diagnose
from qkit.report.measure import measure
from qkit.spec import QuantSpec, Scheme

RESBLOCKS = "visual.transformer.resblocks"
OUTLIER = f"{RESBLOCKS}.1.mlp.c_proj"  # behind the unit whose bias the tiny model has raised
FLOAT, MIXED = f"{RESBLOCKS}.0.mlp.c_fc", f"{RESBLOCKS}.0.mlp.c_proj"
WEIGHT_ONLY = Scheme(weight=QuantSpec(3, True))


@pytest.fixture
def student(quantize):
    recipe = override(Recipe(), Overrides(bits=4, attn_bits=6))
    rules = (SchemeRule(FLOAT, scheme=Scheme()), SchemeRule(MIXED, scheme=WEIGHT_ONLY))
    return quantize(Recipe(rules=(*rules, *recipe.rules)))


@pytest.fixture
def built(student, quantize, batches):
    """Reports of layers by name, and of blocks."""
    parts = (student.model, student.layers, student.blocks)
    found = measure(*parts, batches, lambda done, **figures: None)
    known = Known(quantize.seen, student.macs, found, diagnose(*parts, batches[0], found))
    layers, blocks = build_reports(student.layers, student.blocks, known)
    assert {layer.name for layer in layers} == {layer.name for layer in student.layers}
    return {layer.name: layer for layer in layers}, blocks


@pytest.fixture
def inputs(student, batches):
    """First float input of every layer, all batches together, as ``(values, channels)``."""
    seen = {layer.name: [] for layer in student.layers}
    handles = []
    for layer in student.layers:

        def note(_, given, *, layer=layer):
            seen[layer.name].append(given[0].movedim(layer.input_axis, -1).flatten(0, -2))

        handles.append(layer.module.register_forward_pre_hook(note))
    set_mode(student.model, Mode.OFF)
    with torch.no_grad():
        for batch in batches:
            student.model.encode_image(batch.images)
            student.model.encode_text(batch.texts)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in seen.items() if parts[0].is_floating_point()}


def test_layers_stand_in_the_order_in_which_they_run(built):
    names = list(built[0])
    block = [name.split(".")[-1] for name in names if ".resblocks.0." in name][:7]
    assert block == ["q_proj", "k_proj", "v_proj", "sdpa", "out_proj", "c_fc", "c_proj"]
    assert names.index("token_embedding") < names.index("transformer.resblocks.0.attn.q_proj")


def width(x):
    return max(0.0, x.max().item()) - min(0.0, x.min().item())


def test_the_widest_channel_is_the_one_without_which_the_range_shrinks_most(built, inputs):
    layers, _ = built
    for name, layer in layers.items():
        if layer.kind in ("embedding", "attention") or layer.act_bits is None:
            assert layer.channel is None
            continue
        x, numbers = inputs[name], range(inputs[name].shape[1])
        rests = [width(torch.cat([x[:, :i], x[:, i + 1 :]], dim=1)) for i in numbers]
        assert layer.channel.share == pytest.approx(1 - min(rests) / width(x), abs=1e-5)
        assert rests[layer.channel.index] == pytest.approx(min(rests), rel=1e-5)


def test_a_planted_outlier_channel_is_found_and_named(built):
    layer = built[0][OUTLIER]
    assert layer.channel.index == 3
    assert layer.channel.share > 0.5
    assert "one channel" in layer.cause
    assert "channel 3 " in layer.evidence


def test_bits_are_those_that_the_layer_really_has(built):
    layers, _ = built
    for name, (weight, act, roles) in {
        FLOAT: (None, None, []),
        MIXED: (3, None, ["weight"]),
        OUTLIER: (4, 4, ["weight", "input"]),
        f"{RESBLOCKS}.0.attn.q_proj": (4, 4, ["weight", "input"]),
        f"{RESBLOCKS}.0.attn.sdpa": (None, 6, ["query", "key", "value", "probs"]),
        "token_embedding": (4, None, ["weight"]),
    }.items():
        layer = layers[name]
        assert (layer.weight_bits, layer.act_bits) == (weight, act)
        assert [tensor.role for tensor in layer.tensors] == roles
        assert {tensor.bits for tensor in layer.tensors} <= {weight, act}


def test_the_stored_weight_s_sqnr_is_of_the_weight_alone(built, student):
    layers, _ = built
    for layer in student.layers:
        found = layers[layer.name].weight_sqnr_db
        if layer.weight_quantizer is None:
            assert found is None
            continue
        weight = layer.module.weight.detach().double()
        off = layer.weight_quantizer.round(layer.module.weight.detach()).double() - weight
        energies = weight.square().sum() / off.square().sum()
        assert found == pytest.approx(10 * math.log10(energies), abs=1e-3)


def test_layers_know_their_block(built):
    layers, blocks = built
    assert [(block.tower, block.index) for block in blocks] == [
        (tower, index) for tower in ("image", "text") for index in range(2)
    ]
    assert layers[OUTLIER].block == 1
    assert layers["visual.conv1"].block is layers["text_projection"].block is None
