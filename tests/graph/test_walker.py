# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Swapping computes the same, and restoring brings back exactly what was there."""

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qkit.clip.layout import swap_clip
from qkit.graph.layers import list_layers, tower_of
from qkit.graph.walker import FLOAT_CLASSES, restore, swap
from qkit.nn.conv import QuantConv2d
from qkit.nn.linear import QuantLinear, QuantProjection
from qkit.pipeline.student import give_points
from qkit.recipe import Recipe
from qkit.recipe.schema import SchemeRule
from qkit.spec import Scheme

QKV = ("q_proj", "k_proj", "v_proj")


def assert_close(features, expected):
    for ours, theirs in zip(features, expected, strict=True):
        assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-5


def assert_same_state(model, before):
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_features_survive_the_swap_and_the_state_survives_both(architecture, example):
    model, known = architecture.model, example(architecture)
    shape = repr(model)
    swap_clip(model)
    assert repr(model) != shape
    assert_close(known.features(model), known.before)
    restore(model)
    assert repr(model) == shape
    assert_same_state(model, known.state)
    assert_close(known.features(model), known.before)


def test_every_float_class_is_gone_from_the_towers(architecture):
    model = architecture.model
    towers = swap_clip(model)
    floats = [name for name, module in model.named_modules() if type(module) in FLOAT_CLASSES]
    left = [name for name in floats if tower_of(name, towers) is not None]
    assert left == []


def test_swapping_twice_changes_nothing(architecture, example):
    model, known = architecture.model, example(architecture)
    towers = swap_clip(model)
    modules, state = dict(model.named_modules()), deepcopy(model.state_dict())
    assert swap_clip(model) == towers
    again = dict(model.named_modules())
    assert list(again) == list(modules)
    assert all(again[name] is modules[name] for name in modules)
    assert_same_state(model, state)
    restore(model)
    assert_same_state(model, known.state)


def test_restoring_twice_or_unswapped_changes_nothing(tiny):
    before, shape = deepcopy(tiny.model.state_dict()), repr(tiny.model)
    restore(tiny.model)
    swap_clip(tiny.model)
    restore(tiny.model)
    restore(tiny.model)
    assert repr(tiny.model) == shape
    assert_same_state(tiny.model, before)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_swapped_model_is_trained_as_the_original(tiny, requires_grad):
    tiny.model.requires_grad_(requires_grad).train()
    swap_clip(tiny.model)
    assert {p.requires_grad for p in tiny.model.parameters()} == {requires_grad}
    assert all(module.training for module in tiny.model.modules())
    restore(tiny.model)
    assert {p.requires_grad for p in tiny.model.parameters()} == {requires_grad}
    assert all(module.training for module in tiny.model.modules())


class Tripled(nn.Linear):
    def forward(self, x):
        return 3 * super().forward(x)


def test_subclass_is_left_alone():
    model = nn.ModuleDict({"body": nn.Sequential(Tripled(2, 2), nn.Linear(2, 2))})
    swap(model, ["body"], [], FLOAT_CLASSES)
    assert [type(module) for module in model["body"]] == [Tripled, QuantLinear]


def test_only_what_lies_below_the_roots_is_swapped():
    model = nn.ModuleDict(
        {
            "inside": nn.ModuleDict({"deep": nn.Sequential(nn.Conv2d(1, 1, 1))}),
            "beside": nn.Linear(2, 2),
            "itself": nn.Linear(2, 2),
        }
    )
    swap(model, ["inside.deep", "itself"], [], FLOAT_CLASSES)
    assert type(model["inside"]["deep"][0]) is QuantConv2d
    assert type(model["itself"]) is QuantLinear
    assert type(model["beside"]) is nn.Linear


def test_bare_parameter_becomes_a_layer_and_finds_its_place_again():
    model = nn.Module()
    for name in ("first", "proj", "last"):
        model.register_parameter(name, nn.Parameter(torch.randn(3, 2)))
    swap(model, [], ["proj"], FLOAT_CLASSES)
    assert isinstance(model.proj, QuantProjection)
    assert list(model.state_dict()) == ["first", "last", "proj.weight"]
    restore(model)
    assert isinstance(model.proj, nn.Parameter)
    assert list(model.state_dict()) == ["first", "proj", "last"]


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_restoring_undoes_any_recipe(student, example, data):
    """Random layers stay float; q, k and v, which read one tensor, only together."""
    model = student.model
    names = [layer.name for layer in student.layers if layer.name != "visual.conv1"]
    units = sorted({n[:-6] + "[qkv]_proj" if n.endswith(QKV) else n for n in names})
    ignored = data.draw(st.lists(st.sampled_from(units), unique=True))
    rules = [SchemeRule(unit, scheme=Scheme()) for unit in ignored]
    swapped = {name: value.clone() for name, value in model.state_dict().items()}
    coverage = give_points(student, Recipe(rules=(*rules, SchemeRule())))
    left = {item.what for item in coverage.left_float}
    assert {layer.name for layer in student.layers} & left == {
        name for name in names if name in ignored or name[:-6] + "[qkv]_proj" in ignored
    }
    assert_same_state(model, swapped)
    twin = deepcopy(model)
    restore(twin)
    assert not [m for m in twin.modules() if type(m).__module__.startswith("qkit")]
    swap_clip(twin)
    assert [layer.name for layer in list_layers(twin, student.towers)] == [
        layer.name for layer in student.layers
    ]
    assert_same_state(twin, swapped)
