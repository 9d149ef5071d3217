# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Rules that an assignment becomes: exact, few, and fit to be read again."""

import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qkit.allocation.choices import Bits
from qkit.clip.layout import swap_clip
from qkit.graph.layers import list_layers
from qkit.graph.match import decide
from qkit.pipeline.search.rules import at_bits, mixed_recipe, relevant
from qkit.recipe import Recipe, SchemeRule
from qkit.spec import Granularity, GridKind, QuantSpec, Scheme

TOKEN = QuantSpec(8, granularity=Granularity.TOKEN)
TENSOR = QuantSpec(8)
NORMAL = QuantSpec(4, granularity=Granularity.TOKEN, grid=GridKind.NORMAL)
WEIGHT = QuantSpec(8, symmetric=True)
RECIPES = {
    "plain": Recipe(),
    "per token": Recipe(
        rules=(SchemeRule("*.mlp.c_proj", scheme=Scheme(WEIGHT, TOKEN)), SchemeRule())
    ),
    "weights only": Recipe(rules=(SchemeRule(scheme=Scheme(WEIGHT)),)),
    "partly float": Recipe(
        rules=(SchemeRule("visual.conv1", scheme=Scheme()), SchemeRule("*.c_fc")), seed=3
    ),
    "probabilities by themselves": Recipe(
        rules=(
            SchemeRule("*.0.*", scheme=Scheme(WEIGHT, NORMAL, TENSOR, TOKEN)),
            SchemeRule(scheme=Scheme(WEIGHT, NORMAL, TENSOR)),
        )
    ),
    "two attentions": Recipe(
        rules=(
            SchemeRule("visual.*.0.*", scheme=Scheme(WEIGHT, TOKEN, QuantSpec(4))),
            SchemeRule("*", tower="image", scheme=Scheme(WEIGHT, TOKEN)),
            SchemeRule(),
        )
    ),
}
CHOICES = st.sampled_from([Bits(4, 4), Bits(4, 8), Bits(8, 8)])


def schemes(recipe, layers):
    """What each layer gets of a recipe."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rules that match a whole tower
        decided = decide(recipe.rules, layers)
    return {
        layer.name: relevant(
            layer, Scheme() if (i := decided[layer.name]) is None else recipe.rules[i].scheme
        )
        for layer in layers
    }


@pytest.fixture
def layers(tiny):
    return list_layers(tiny.model, swap_clip(tiny.model))


@pytest.mark.parametrize("name", RECIPES)
@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_every_layer_gets_exactly_its_bits(layers, name, data):
    recipe = RECIPES[name]
    weighted = [layer.name for layer in layers if layer.kind != "attention"]
    bits = data.draw(st.fixed_dictionaries(dict.fromkeys(weighted, CHOICES)))
    mixed = mixed_recipe(recipe, layers, bits, "mine")
    before, after = schemes(recipe, layers), schemes(mixed, layers)
    for layer in layers:
        assert after[layer.name] == at_bits(before[layer.name], bits.get(layer.name))
    assert (mixed.summary, mixed.seed, mixed.calibrator) == ("mine", recipe.seed, recipe.calibrator)


def test_all_alike_is_one_rule(layers):
    bits = {layer.name: Bits(4, 8) for layer in layers if layer.kind != "attention"}
    (rule,) = mixed_recipe(Recipe(), layers, bits, "").rules
    assert rule.match == "*"
    assert (rule.scheme.weight.bits, rule.scheme.input.bits) == (4, 8)
    assert rule.scheme.attention.bits == 8


def test_layers_that_sit_alike_share_a_rule(layers):
    names = [layer.name for layer in layers if layer.kind != "attention"]
    few = [n for n in names if n.startswith("visual.transformer") and "_proj" in n and "attn" in n]
    bits = {n: Bits(8, 8) for n in names} | {n: Bits(4, 8) for n in (*few, "text_projection")}
    *rules, _ = mixed_recipe(Recipe(), layers, bits, "").rules
    tails = r"(attn\.q_proj|attn\.k_proj|attn\.v_proj|attn\.out_proj)"
    found = [rule.match for rule in rules]
    assert sorted(found) == [
        rf"re:visual\.transformer\.resblocks\.(0|1)\.{tails}",
        "text_projection",
    ]
