# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
import pytest

from qkit.errors import RecipeError
from qkit.graph.layers import list_points
from qkit.pipeline.student import give_points, prepare
from qkit.recipe import Recipe
from qkit.recipe.schema import INPUT, WEIGHT, SchemeRule
from qkit.spec import Granularity, QuantSpec, Scheme

ATTN = "visual.transformer.resblocks.0.attn"
TOKEN = QuantSpec(8, granularity=Granularity.TOKEN)


def points(model):
    return {str(point.point): point for point in list_points(model)}


def give(student, *rules):
    give_points(student, Recipe(rules=rules))
    return points(student.model)


def test_default_recipe_gives_every_operand_a_point(student):
    names = set(give(student, SchemeRule()))
    expected = {"token_embedding:weight"}
    for name in ("visual.conv1", "visual.proj", "text_projection"):
        expected |= {f"{name}:input", f"{name}:weight"}
    for tower in ("visual.", ""):
        for block in range(2):
            base = f"{tower}transformer.resblocks.{block}"
            expected |= {f"{base}.attn:input"}
            expected |= {f"{base}.attn.{part}_proj:weight" for part in "qkv"}
            for name in ("attn.out_proj", "mlp.c_fc", "mlp.c_proj"):
                expected |= {f"{base}.{name}:input", f"{base}.{name}:weight"}
            expected |= {f"{base}.attn.sdpa:{role}" for role in ("query", "key", "value", "probs")}
    assert names == expected


def test_each_point_has_the_spec_of_its_rule(student):
    first = Scheme(QuantSpec(3, True), QuantSpec(4), QuantSpec(5))
    given = give(student, SchemeRule("visual.*.resblocks.0.*", scheme=first), SchemeRule())
    assert given[f"{ATTN}.q_proj:weight"].spec == QuantSpec(3, True)
    assert given[f"{ATTN}:input"].spec == QuantSpec(4)
    assert given[f"{ATTN}.sdpa:probs"].spec == QuantSpec(5)
    assert given["visual.conv1:weight"].spec == WEIGHT
    assert given["visual.conv1:input"].spec == INPUT
    assert given["visual.conv1:input"].axis == 1


def test_new_recipe_replaces_all_points(student):
    give(student, SchemeRule())
    only = give(student, SchemeRule("visual.proj", scheme=Scheme(weight=WEIGHT)))
    assert list(only) == ["visual.proj:weight"]


def test_weights_of_q_k_and_v_may_differ(student):
    rules = [
        SchemeRule(f"{ATTN}.{part}_proj", scheme=Scheme(QuantSpec(bits, True), INPUT))
        for part, bits in zip("qkv", (2, 3, 4), strict=True)
    ]
    given = give(student, *rules)
    bits = [given[f"{ATTN}.{part}_proj:weight"].spec.bits for part in "qkv"]
    assert bits == [2, 3, 4]
    assert given[f"{ATTN}:input"].spec == INPUT


def test_inputs_of_q_k_and_v_that_differ_are_refused(student):
    rules = (SchemeRule(f"{ATTN}.v_proj", scheme=Scheme(WEIGHT, TOKEN)), SchemeRule())
    with pytest.raises(RecipeError) as caught:
        give(student, *rules)
    assert str(caught.value) == (
        f"{ATTN}: its projections read one tensor but are to see it differently "
        "(q_proj int8 affine per tensor, k_proj int8 affine per tensor, v_proj int8 affine per "
        f"token). Give them one rule, e.g. match = '{ATTN}.[qkv]_proj'."
    )


def test_ignoring_q_alone_is_refused(student):
    rules = (SchemeRule(f"{ATTN}.q_proj", scheme=Scheme()), SchemeRule())
    with pytest.raises(RecipeError, match=r"q_proj float, k_proj int8 affine per tensor"):
        give(student, *rules)


@pytest.fixture
def pooled(build):
    return prepare(build("pooler"), copy=False)


def test_cross_attention_may_see_query_and_context_differently(pooled):
    name = "visual.attn_pool.attn"
    given = give(pooled, SchemeRule(f"{name}.q_proj", scheme=Scheme(WEIGHT, TOKEN)), SchemeRule())
    assert given[f"{name}:input"].spec == TOKEN
    assert given[f"{name}:context"].spec == INPUT


def test_key_and_value_of_cross_attention_share_their_context(pooled):
    name = "visual.attn_pool.attn"
    rules = (SchemeRule(f"{name}.v_proj", scheme=Scheme(WEIGHT, TOKEN)), SchemeRule())
    with pytest.raises(RecipeError) as caught:
        give(pooled, *rules)
    assert "(k_proj int8 affine per tensor, v_proj int8 affine per token)" in str(caught.value)
