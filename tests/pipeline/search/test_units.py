# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Who shares bits: exactly the layers that read one input."""

import pytest

from qkit.pipeline.search.units import join_names, list_units
from qkit.pipeline.student import give_points
from qkit.recipe import Recipe, SchemeRule
from qkit.spec import QuantSpec, Scheme


def test_q_k_and_v_are_one_unit_and_attention_cores_none(student):
    units = list_units(student)
    names = [layer.name for unit in units for layer in unit.layers]
    cores = [layer.name for layer in student.layers if layer.kind == "attention"]
    assert sorted(names + cores) == sorted(layer.name for layer in student.layers)
    shared = [unit for unit in units if len(unit.layers) > 1]
    assert [unit.part for unit in shared] == ["attn.[qkv]_proj"] * 4
    assert shared[0].name == "visual.transformer.resblocks.0.attn.[qkv]_proj"
    assert [len(unit.points) for unit in shared] == [4] * 4


def test_it_counts_weights_and_products(student):
    units = {unit.name: unit for unit in list_units(student)}
    table, first = units["token_embedding"], units["visual.conv1"]
    assert (table.weights, table.macs, table.sees_input) == (49408 * 32, 0, False)
    assert (first.weights, first.macs, first.sees_input) == (64 * 192, 16 * 64 * 192, True)


def test_without_input_points_everyone_is_alone_and_float_layers_are_none(student):
    weights = Scheme(QuantSpec(4, symmetric=True))
    rules = (SchemeRule("*.mlp.*", scheme=Scheme()), SchemeRule("*", scheme=weights))
    give_points(student, Recipe(rules=rules))
    units = list_units(student)
    assert all(len(unit.layers) == 1 and not unit.sees_input for unit in units)
    assert not [unit for unit in units if "mlp" in unit.name]


@pytest.mark.parametrize(
    ("names", "joined"),
    [
        (["a.b"], "a.b"),
        (["a.q_proj", "a.k_proj"], "a.[qk]_proj"),
        (["a.one", "a.two"], "a.*"),
        (["a.x", "a.xx"], "a.x*"),
    ],
)
def test_names_are_joined_as_a_glob(names, joined):
    assert join_names(names) == joined
