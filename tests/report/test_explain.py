# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Each cause where its figures are, and no number said that was not measured."""

import math
import re
from dataclasses import fields, is_dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkit.report.explain import SAME_BITS, WORTH, explain
from qkit.report.layer import Channel, HistogramReport

NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?%?")
WEIGHT_WORSE = {"weight float": 6.8, "input float": 0.4, "weight at 8 bits": 6.6}
INPUT_WORSE = {"weight float": 0.3, "input float": 9.7, "input at 8 bits": 9.1}


def figures(value):
    """All numbers of a report, those in the names of trials too, histograms left out."""
    if isinstance(value, HistogramReport | bool):
        return []
    if isinstance(value, int | float):
        return [value]
    if is_dataclass(value):
        return figures([getattr(value, f.name) for f in fields(value) if f.name != "evidence"])
    if isinstance(value, dict):
        return figures([*value.values(), *(float(n) for n in re.findall(r"\d+", " ".join(value)))])
    return [n for item in value for n in figures(item)] if isinstance(value, list | tuple) else []


def assert_measured(layer, *others):
    """Every number said is one of the layer's own, or of the ``others`` that it may name."""
    known = figures([replace(layer, cause=""), *others, WORTH])
    for text in (layer.cause, layer.evidence, layer.remedy):
        assert text
        assert not re.search(r"\b(inf|nan|None)\b", text)
        for said in NUMBER.findall(text):
            unit = 0.01 if said.endswith("%") else 1.0
            digits = len(said.rstrip("%").partition(".")[2])
            value, half = float(said.rstrip("%")) * unit, 0.5 * unit * 10**-digits
            assert any(abs(value - number) <= half * 1.001 for number in known), (said, text)


@pytest.fixture(scope="module")
def explained():
    """A layer with its words; those before it and the blocks change what is said."""
    return lambda layer, earlier=(), blocks=(): explain([*earlier, layer], blocks)[-1]


@pytest.mark.parametrize(
    ("changes", "cause", "said"),
    [
        (
            {"channel": Channel(411, 0.63), "trials": {**INPUT_WORSE, "channels smoothed": 6.2}},
            "one channel stretches",
            "channel 411 carries 63%",
        ),
        (
            {"trials": {**INPUT_WORSE, "input per token": 5.3}, "token_spread": 7.25},
            "a few tokens stretch",
            "7.2x",
        ),
        (
            {"trials": {**INPUT_WORSE, "input full range": 2.4}},
            "range cuts off",
            "1.35% of the values lie beyond 75%",
        ),
        (
            {"trials": {**INPUT_WORSE, "input least error": 1.7}},
            "rare values stretch the input",
            "+1.7 dB",
        ),
        ({"trials": INPUT_WORSE}, "4 bits are few for its input", "input +9.7 dB"),
        (
            {"trials": {**WEIGHT_WORSE, "weight per channel": 5.1}},
            "one scale for all of the weight's channels",
            "weight +6.8 dB",
        ),
        (
            {"trials": {**WEIGHT_WORSE, "weight least error": 1.2}},
            "outliers stretch the weight",
            "weight +6.8 dB",
        ),
        ({"trials": WEIGHT_WORSE}, "3 bits are few for its weight", "weight +6.8 dB"),
        ({"local_sqnr_db": 31.4}, "loses little", "alone 31.4 dB"),
        ({"local_sqnr_db": math.inf}, "loses little", "alone exact"),
        ({"inherited_sqnr_db": math.inf}, "4 bits are few for its input", "input +4.5 dB"),
    ],
)
def test_each_cause_is_found_by_its_figures(layer, explained, changes, cause, said):
    found = explained(layer(**changes))
    assert cause in found.cause
    assert said in found.evidence
    assert_measured(found)


@pytest.mark.parametrize("role", ["query", "key", "value", "probs"])
def test_an_attention_s_worst_operand_is_named_with_its_bits(sdpa, explained, role):
    roles = ("query", "key", "value", "probs")
    trials = {f"{r} float": 5.2 if r == role else 0.2 for r in roles}
    operands = {r: 3 if r == role else 8 for r in roles}
    found = explained(sdpa(trials={**trials, f"{role} per token": 2.7}, operands=operands))
    assert found.cause == f"3 bits are few for its {role}"
    assert found.remedy == f"{role} per token: +2.7 dB"
    assert_measured(found)


def test_an_attention_without_trials_says_what_it_makes(sdpa, explained):
    found = explained(sdpa(trials={}))
    assert "it makes 74% of the error" in found.evidence
    assert_measured(found)


def test_a_layer_left_in_float_is_not_blamed(floating, explained):
    found = explained(floating(cumulative_sqnr_db=23.4, inherited_sqnr_db=23.4))
    assert found.cause == "left in float"
    assert found.evidence == "23.4 dB arrives"
    assert_measured(found)


@pytest.mark.parametrize(
    ("only", "cause"), [("weight", "3 bits are few for its weight"), ("input", "few for its input")]
)
def test_a_layer_with_one_quantized_operand_is_blamed_on_that(layer, explained, only, cause):
    base = layer(trials={f"{only} at 8 bits": 4.4})
    tensors = tuple(tensor for tensor in base.tensors if tensor.role == only)
    found = explained(replace(base, tensors=tensors, weight_bits=3 if only == "weight" else None))
    assert cause in found.cause
    assert found.remedy == f"{only} at 8 bits: +4.4 dB"
    assert_measured(found)


def test_the_best_change_at_the_same_bits_comes_before_more_bits(layer, explained):
    same = {"input per token": 5.3, "channels smoothed": 7.4, "input least error": 2.0}
    found = explained(layer(trials={**INPUT_WORSE, **same, "weight least error": 99.0}))
    assert found.remedy == f"{SAME_BITS['channels smoothed']}: +7.4 dB; input at 8 bits: +9.1 dB"


def test_changes_that_gain_little_are_not_advised(layer, explained):
    little = {"weight float": 0.5, "input float": 0.8, "input per token": 0.9}
    assert explained(layer(trials=little)).remedy == "no other grid of its bits gains 1 dB"
    left = explained(layer(trials={**little, "input float": 3.6}))
    assert left.remedy.endswith("gains 1 dB; left in float: +3.6 dB")
    assert_measured(left)


@pytest.fixture
def tower(layer, block):
    """Two layers in each of four blocks, of which block 1 makes most."""
    layers = [
        layer(name=f"visual.blocks.{i}.{part}", block=i, local_sqnr_db=sqnr + i)
        for i in range(4)
        for part, sqnr in (("attn.out_proj", 20.25), ("mlp.c_fc", 15.5))
    ]
    return layers, [block(i, local) for i, local in enumerate((25.0, 12.0, 18.0, 5.0))]


@pytest.mark.parametrize(
    ("number", "mended"),
    [
        (1, "block 0 attn.out_proj first (20.2 dB by itself)"),
        (2, "block 0 mlp.c_fc first (15.5 dB by itself)"),
        (3, "block 1 attn.out_proj first (21.2 dB by itself)"),
        (4, "block 1 mlp.c_fc first (16.5 dB by itself)"),
        (7, "block 3 attn.out_proj first (23.2 dB by itself)"),
    ],
)
def test_a_layer_that_passes_on_names_the_worst_before_it(explained, tower, number, mended):
    layers, blocks = tower
    passing = replace(layers[number], made=0.08)
    found = explained(passing, layers[:number], blocks)
    assert found.cause == "passes on what came in"
    assert found.remedy == f"mend {mended}"
    assert_measured(found, *layers[:number])


def test_behind_the_blocks_all_of_them_are_looked_at(layer, explained, tower):
    layers, blocks = tower
    behind = layer(name="visual.proj", kind="projection", block=None, made=0.1)
    found = explained(behind, layers, blocks)
    assert found.remedy == "mend block 3 mlp.c_fc first (18.5 dB by itself)"


def test_the_other_tower_is_not_to_blame(layer, block, explained, tower):
    layers, blocks = tower
    behind = layer(name="visual.proj", kind="projection", block=None, made=0.1)
    other = layer(name="a", tower="text", block=0, local_sqnr_db=-9.0)
    found = explained(behind, [*layers, other], [*blocks, block(0, -8.0, "text")])
    assert found.remedy.startswith("mend block 3 mlp.c_fc first")
    assert "block 0 mlp.c_fc" in explained(behind, [*layers, other]).remedy


@pytest.mark.parametrize("changes", [{"local_sqnr_db": 9.9}, {"made": 0.3}])
def test_a_layer_that_is_broken_or_makes_its_share_is_to_blame(explained, tower, changes):
    layers, blocks = tower
    found = explained(replace(layers[4], **{"made": 0.1, **changes}), layers[:4], blocks)
    assert found.cause == "4 bits are few for its input"


def test_the_first_layer_cannot_pass_on(layer, explained):
    assert explained(layer(made=0.1)).cause != "passes on what came in"


def test_nothing_but_the_words_changes(tower):
    layers, blocks = tower
    words = {"cause": "", "evidence": "", "remedy": ""}
    assert [replace(found, **words) for found in explain(layers, blocks)] == layers


decibels = st.floats(-30, 70) | st.just(math.inf)
gains = st.floats(-40, 40).map(lambda gain: round(gain, 3))
names = [*SAME_BITS, "weight float", "input float", "weight at 8 bits", "input at 8 bits"]


@settings(max_examples=300, deadline=None)
@given(
    trials=st.dictionaries(st.sampled_from(names), gains),
    sqnr=st.tuples(decibels, decibels),
    share=st.floats(0, 1),
    earlier=st.lists(decibels, max_size=3),
)
def test_whatever_the_figures_only_they_are_said(layer, trials, sqnr, share, earlier):
    local, inherited = sqnr
    changes = {"made": share, "clipped": share, "channel": Channel(5, share), "trials": trials}
    own = layer(local_sqnr_db=local, inherited_sqnr_db=inherited, **changes)
    before = [layer(name="x", local_sqnr_db=each) for each in earlier]
    found = explain([*before, own], ())[-1]
    assert_measured(found, *before)
    advised = [float(gain) for gain in re.findall(r": ([-+][\d.]+) dB", found.remedy)]
    assert all(gain >= WORTH for gain in advised)
