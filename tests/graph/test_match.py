# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
import re

import pytest

from qkit.errors import QkitWarning, RecipeError
from qkit.graph.match import decide, matches
from qkit.recipe.schema import SchemeRule
from qkit.spec import Scheme

REST = SchemeRule()


def leave(match="*", **limits):
    return SchemeRule(match, scheme=Scheme(), **limits)


def picked(rule, student):
    return {layer.name for layer in student.layers if matches(rule, layer)}


def test_first_rule_that_matches_decides(student):
    rules = [leave("visual.conv1"), SchemeRule("*.mlp.*"), REST]
    decided = decide(rules, student.layers)
    assert list(decided) == [layer.name for layer in student.layers]
    assert decided["visual.conv1"] == 0
    assert decided["transformer.resblocks.1.mlp.c_fc"] == 1
    assert decided["text_projection"] == 2


def test_layer_that_no_rule_matches_is_undecided(student):
    decided = decide([SchemeRule("*.mlp.*")], student.layers)
    assert decided["visual.transformer.resblocks.0.mlp.c_fc"] == 0
    assert decided["visual.conv1"] is None


@pytest.mark.parametrize(
    ("rule", "count"),
    [
        (SchemeRule("*"), 32),
        (SchemeRule("visual.*"), 16),
        (SchemeRule("*.resblocks.0.*"), 14),
        (SchemeRule("*.attn.[qkv]_proj"), 12),
        (SchemeRule("*c_proj"), 4),
        (SchemeRule("c_proj"), 0),
        (SchemeRule("VISUAL.conv1"), 0),
        (SchemeRule(kind="linear"), 24),
        (SchemeRule(kind="attention"), 4),
        (SchemeRule(kind="conv"), 1),
        (SchemeRule(kind="embedding"), 1),
        (SchemeRule(kind="projection"), 2),
        (SchemeRule(tower="image"), 16),
        (SchemeRule(tower="text"), 16),
        (SchemeRule("*.c_fc", kind="linear", tower="text"), 2),
        (SchemeRule("re:.*c_(fc|proj)"), 8),
        (SchemeRule("re:visual"), 0),
        (SchemeRule(r"re:visual\.conv\d"), 1),
    ],
    ids=str,
)
def test_selectors(student, rule, count):
    assert len(picked(rule, student)) == count


def test_limits_narrow_the_match_and_nothing_else(student):
    everything = picked(SchemeRule(), student)
    by_tower = [picked(SchemeRule(tower=tower), student) for tower in ("image", "text")]
    assert by_tower[0] | by_tower[1] == everything
    assert by_tower[0] & by_tower[1] == set()
    assert picked(SchemeRule("visual.*", tower="text"), student) == set()


@pytest.mark.parametrize(
    ("rule", "said", "hint"),
    [
        (leave("visual.conv2"), "match = 'visual.conv2'", "Did you mean 'visual.conv1'?"),
        (leave("re:text_projektion"), "match = 're:text_projektion'", "'text_projection'?"),
        (leave("qqq"), "match = 'qqq'", "A layer is called 'visual.conv1'."),
        (
            leave("text_projection", kind="conv", tower="image"),
            "match = 'text_projection', kind = 'conv', tower = 'image'",
            "Did you mean 'text_projection'?",
        ),
    ],
)
def test_rule_that_matches_nothing_is_refused(student, rule, said, hint):
    with pytest.raises(RecipeError) as caught:
        decide([leave("visual.proj"), rule, REST], student.layers)
    text = str(caught.value)
    assert text.startswith(f"rule 2 ({said}) matches no layer. ")
    assert hint in text
    assert text.endswith(" Mend or remove it.")


def test_rule_behind_others_is_refused(student):
    with pytest.raises(RecipeError) as caught:
        decide([SchemeRule("visual.*1"), REST, leave("visual.conv1")], student.layers)
    assert str(caught.value) == (
        "rule 3 (match = 'visual.conv1') decides nothing: earlier rules match all its layers. "
        "Move it up or remove it."
    )


@pytest.mark.parametrize(
    ("rule", "tower", "what"),
    [
        (leave("visual.*"), "image", "leaves it in float"),
        (leave("re:v.*"), "image", "leaves it in float"),
        (leave("*visual*"), "image", "leaves it in float"),
        (SchemeRule("visual.*"), "image", "decides all of it"),
        (leave("*t*", tower="text"), "text", "leaves it in float"),
    ],
)
def test_pattern_that_covers_a_tower_is_pointed_out(student, rule, tower, what):
    with pytest.warns(QkitWarning) as caught:
        decide([rule, REST], student.layers)
    assert [str(warning.message) for warning in caught] == [
        f"rule 1 ({rule}) matches the whole {tower} tower, 16 layers, and {what}. "
        f"If that is meant, write match = '*' and tower = '{tower}'."
    ]


def test_ignoring_everything_is_pointed_out_for_both_towers(student):
    towers = re.compile("the whole (image|text) tower")
    with pytest.warns(QkitWarning) as caught:
        decide([leave()], student.layers)
    assert [towers.search(str(w.message)).group(1) for w in caught] == ["image", "text"]


@pytest.mark.parametrize("rules", [[leave(tower="image"), REST], [SchemeRule(tower="text")]])
def test_star_and_a_tower_are_taken_at_their_word(student, rules, recwarn):
    decided = decide(rules, student.layers)
    assert {layer.tower for layer in student.layers if decided[layer.name] == 0} == {rules[0].tower}
    assert not recwarn.list
