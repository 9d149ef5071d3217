# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
import pytest
import torch

from qkit.clip.layout import swap_clip
from qkit.errors import CalibrationError
from qkit.graph.layers import list_layers, list_points, operand_bits, tower_of
from qkit.nn.tensor_quantizer import Mode
from qkit.numerics import qparams_from_range
from qkit.pipeline.student import give_points
from qkit.recipe import Recipe
from qkit.recipe.schema import SchemeRule
from qkit.spec import QuantSpec, Range, Scheme

PARTS = {
    **dict.fromkeys(("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj"), "linear"),
    "attn.sdpa": "attention",
    "mlp.c_fc": "linear",
    "mlp.c_proj": "linear",
}
EXPECTED = {
    ("visual.conv1", "image", "conv"),
    ("visual.proj", "image", "projection"),
    ("token_embedding", "text", "embedding"),
    ("text_projection", "text", "projection"),
} | {
    (f"{prefix}transformer.resblocks.{block}.{part}", tower, kind)
    for prefix, tower in (("visual.", "image"), ("", "text"))
    for block in range(2)
    for part, kind in PARTS.items()
}
ATTN = "visual.transformer.resblocks.0.attn"


def by_name(student):
    return {layer.name: layer for layer in student.layers}


def test_every_layer_is_listed_once_with_its_tower_and_kind(student):
    found = [(layer.name, layer.tower, layer.kind) for layer in student.layers]
    assert len(found) == len(EXPECTED) == 32
    assert set(found) == EXPECTED


def test_layers_come_in_the_order_of_their_modules(student):
    names = [name for name, _ in student.model.named_modules()]
    places = [names.index(layer.name) for layer in student.layers]
    assert places == sorted(places)
    assert all(student.model.get_submodule(each.name) is each.module for each in student.layers)


def test_only_q_k_and_v_are_fed_by_their_attention(student):
    fed = {layer.name: layer.attention for layer in student.layers if layer.attention is not None}
    assert len(fed) == 12
    assert all(name.endswith(("q_proj", "k_proj", "v_proj")) for name in fed)
    assert fed[f"{ATTN}.k_proj"] is student.model.get_submodule(ATTN)


@pytest.mark.parametrize(
    ("name", "tower"),
    [
        ("visual", "image"),
        ("visual.conv1.weight", "image"),
        ("text_projection", "text"),
        ("token_embedding.weight", "text"),
        ("logit_scale", None),
        ("visualizer.conv1", None),
    ],
)
def test_tower_of_a_name(student, name, tower):
    assert tower_of(name, student.towers) == tower


def test_layers_outside_the_towers_are_not_listed(build):
    clip = build("coca")
    layers = list_layers(clip.model, swap_clip(clip.model))
    assert {layer.tower for layer in layers} == {"image", "text"}
    assert not [layer.name for layer in layers if layer.name.startswith("text_decoder")]
    assert "visual.attn_pool.attn.sdpa" in [layer.name for layer in layers]


def test_points_of_a_layer_are_all_that_change_its_output(student):
    give_points(student, Recipe())
    layers = by_name(student)
    shared = student.model.get_submodule(ATTN).input_quantizer
    for part in ("q_proj", "k_proj", "v_proj"):
        layer = layers[f"{ATTN}.{part}"]
        assert layer.input_quantizers == (shared,)
        assert layer.points == (shared, layer.weight_quantizer)
    assert [str(p.point) for p in layers[f"{ATTN}.sdpa"].points] == [
        f"{ATTN}.sdpa:{role}" for role in ("query", "key", "value", "probs")
    ]
    assert [str(p.point) for p in layers["token_embedding"].points] == ["token_embedding:weight"]
    assert {id(p) for layer in student.layers for p in layer.points} == {
        id(p) for p in list_points(student.model)
    }


@pytest.mark.parametrize(
    ("scheme", "linear", "core", "table"),
    [
        (
            Scheme(QuantSpec(4, True), QuantSpec(6), QuantSpec(5)),
            {"weight": 4, "input": 6},
            {"query": 5, "key": 5, "value": 5, "probs": 5},
            {"weight": 4},
        ),
        (
            Scheme(weight=QuantSpec(3)),
            {"weight": 3, "input": None},
            dict.fromkeys(("query", "key", "value", "probs")),
            {"weight": 3},
        ),
        (
            Scheme(input=QuantSpec(7)),
            {"weight": None, "input": 7},
            dict.fromkeys(("query", "key", "value", "probs")),
            {"weight": None},
        ),
    ],
)
def test_operand_bits(student, scheme, linear, core, table):
    give_points(student, Recipe(rules=(SchemeRule(scheme=scheme),)))
    layers = by_name(student)
    for name in ("visual.conv1", "visual.proj", f"{ATTN}.q_proj", f"{ATTN}.out_proj"):
        assert operand_bits(layers[name]) == linear
    assert operand_bits(layers[f"{ATTN}.sdpa"]) == core
    assert operand_bits(layers["token_embedding"]) == table


def test_layer_runs_alone_with_its_own_points_on(student):
    """q reads its attention's shared point, as it does in the model."""
    give_points(student, Recipe())
    layer = by_name(student)[f"{ATTN}.q_proj"]
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
    for point, seen in zip(layer.points, (x, layer.module.weight.detach()), strict=True):
        rows = seen if point.spec.granularity == "channel" else seen.reshape(1, -1)[0]
        point.set_qparams(qparams_from_range(Range(rows.amin(-1), rows.amax(-1)), point.spec))
    rounded, weight = layer.points[0], layer.points[1]
    out = layer.run_alone((x,))
    assert [(point.mode, point.fired) for point in layer.points] == [(Mode.OFF, 0)] * 2
    for point in (rounded, weight):
        point.set_mode(Mode.QUANTIZE)
    expected = layer.module(rounded(x))
    assert torch.equal(out, expected)
    assert not torch.equal(out, torch.nn.functional.linear(x, layer.module.weight))


def test_layer_that_fails_alone_leaves_its_points_as_they_were(student):
    give_points(student, Recipe())
    layer = by_name(student)["visual.proj"]
    with pytest.raises(CalibrationError, match=r"visual.proj:input has no scale"):
        layer.run_alone((torch.ones(1, 64),))
    assert {point.mode for point in layer.points} == {Mode.OFF}
