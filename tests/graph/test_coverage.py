# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The share that is quantized, against sums done by hand on the tiny model."""

import pytest
from torch import nn

from qkit.graph.layers import operand_bits
from qkit.pipeline.student import give_points, prepare
from qkit.recipe import Recipe
from qkit.recipe.schema import INPUT, WEIGHT, SchemeRule
from qkit.spec import Scheme

# image: 32 pixels in patches of 8 are 16 tokens and the class token, 64 wide, MLP 256 wide
PATCHES, IMAGE_TOKENS, IMAGE_WIDTH = 4 * 4, 4 * 4 + 1, 64
TEXT_TOKENS, TEXT_WIDTH, VOCABULARY, EMBED = 16, 32, 49408, 32


def block_macs(prefix, tokens, width):
    macs = {f"{prefix}.attn.{name}_proj": tokens * width * width for name in ("q", "k", "v", "out")}
    macs[f"{prefix}.attn.sdpa"] = 2 * tokens * tokens * width  # q k^T, then probs v
    return macs | {f"{prefix}.mlp.{n}": tokens * width * 4 * width for n in ("c_fc", "c_proj")}


MACS = {
    "visual.conv1": PATCHES * (3 * 8 * 8) * IMAGE_WIDTH,
    **block_macs("visual.transformer.resblocks.0", IMAGE_TOKENS, IMAGE_WIDTH),
    **block_macs("visual.transformer.resblocks.1", IMAGE_TOKENS, IMAGE_WIDTH),
    "visual.proj": IMAGE_WIDTH * EMBED,
    "token_embedding": 0,  # a look-up
    **block_macs("transformer.resblocks.0", TEXT_TOKENS, TEXT_WIDTH),
    **block_macs("transformer.resblocks.1", TEXT_TOKENS, TEXT_WIDTH),
    "text_projection": TEXT_WIDTH * EMBED,
}
BLOCK = 4 + 2 * 4  # q, k, v, out, and an MLP of 4 times the width there and back
QUANTIZED = (
    3 * 8 * 8 * IMAGE_WIDTH
    + 2 * BLOCK * IMAGE_WIDTH**2
    + IMAGE_WIDTH * EMBED
    + VOCABULARY * TEXT_WIDTH
    + 2 * BLOCK * TEXT_WIDTH**2
    + TEXT_WIDTH * EMBED
)
FLOAT = {
    "visual.class_embedding": IMAGE_WIDTH,
    "visual.positional_embedding": IMAGE_TOKENS * IMAGE_WIDTH,
    "positional_embedding": TEXT_TOKENS * TEXT_WIDTH,
    "logit_scale": 1,
    "biases": 2 * (3 + 1 + 4 + 1) * (IMAGE_WIDTH + TEXT_WIDTH),
    # two a block, before and after the image's blocks, after the text's; a scale and a shift
    "LayerNorm": 2 * ((4 + 2) * IMAGE_WIDTH + (4 + 1) * TEXT_WIDTH),
}


def cover(student, *rules):
    return give_points(student, Recipe(rules=rules))


def test_macs_are_those_counted_by_hand_and_by_torch(student):
    assert dict(student.macs) == MACS
    assert student.total_macs == sum(MACS.values())


def test_counting_leaves_no_hooks_and_the_model_as_it_was(student):
    assert not [m for m in student.model.modules() if m._forward_hooks]
    assert {p.grad for p in student.model.parameters()} == {None}


def test_everything_quantized(student):
    coverage = cover(student, SchemeRule())
    assert coverage.macs == 1.0
    assert coverage.total_macs == sum(MACS.values())
    assert coverage.total_weights == QUANTIZED + sum(FLOAT.values())
    assert coverage.weights == pytest.approx(QUANTIZED / coverage.total_weights, abs=1e-15)
    assert {item.what: item.weights for item in coverage.left_float} == FLOAT
    assert {item.macs for item in coverage.left_float} == {0}
    reasons = {item.what: item.why for item in coverage.left_float}
    assert reasons["biases"] == "added to the accumulator, as wide as it is"
    assert reasons["LayerNorm"] == "a scale and a shift a channel, computed in float"
    assert reasons["logit_scale"] == "added or multiplied once, too small to matter"


@pytest.mark.parametrize(
    ("match", "weights", "macs"),
    [
        ("visual.conv1", 3 * 8 * 8 * 64, MACS["visual.conv1"]),
        ("token_embedding", VOCABULARY * TEXT_WIDTH, 0),
        ("text_projection", TEXT_WIDTH * EMBED, TEXT_WIDTH * EMBED),
        ("transformer.resblocks.1.attn.sdpa", 0, 2 * 16 * 16 * 32),
        ("transformer.resblocks.1.attn.[qkv]_proj", 3 * 32 * 32, 3 * 16 * 32 * 32),
    ],
)
def test_ignored_layer_lowers_the_shares_by_its_own(student, match, weights, macs):
    coverage = cover(student, SchemeRule(match, scheme=Scheme()), SchemeRule())
    total = coverage.total_weights
    assert coverage.weights == pytest.approx((QUANTIZED - weights) / total, abs=1e-12)
    assert coverage.macs == pytest.approx(1 - macs / sum(MACS.values()), abs=1e-12)
    left = [item for item in coverage.left_float if item.what not in FLOAT]
    assert (sum(i.weights for i in left), sum(i.macs for i in left)) == (weights, macs)
    assert {item.why for item in left} == {f"rule 1 (match = {match!r}) ignores it"}


def test_reason_tells_undecided_from_partly_quantized(student):
    rules = (
        SchemeRule("visual.conv1", scheme=Scheme(weight=WEIGHT)),
        SchemeRule("visual.proj", scheme=Scheme(input=INPUT)),
    )
    left = {item.what: item for item in cover(student, *rules).left_float}
    partly = "quantizes only some of its operands"
    conv, proj = left["visual.conv1"], left["visual.proj"]
    assert (conv.weights, conv.macs) == (0, MACS["visual.conv1"])
    assert conv.why == f"rule 1 (match = 'visual.conv1') {partly}"
    assert (proj.weights, proj.macs) == (IMAGE_WIDTH * EMBED, MACS["visual.proj"])
    assert proj.why == f"rule 2 (match = 'visual.proj') {partly}"
    assert left["text_projection"].why == "no rule of the recipe matches it"


def test_nothing_quantized(student):
    coverage = cover(student, SchemeRule("visual.conv1", scheme=Scheme(input=INPUT)))
    assert (coverage.weights, coverage.macs) == (0.0, 0.0)
    assert sum(item.weights for item in coverage.left_float) == coverage.total_weights
    assert sum(item.macs for item in coverage.left_float) == coverage.total_macs


def test_parts_add_up_in_every_architecture(architecture):
    student = prepare(architecture, copy=False)
    total = sum(p.numel() for p in student.model.parameters())
    for rules in ((SchemeRule(),), (SchemeRule("*c*", kind="linear", scheme=Scheme(WEIGHT)),)):
        coverage = cover(student, *rules)
        held = [each for each in student.layers if each.weight_quantizer is not None]
        quantized = sum(layer.module.weight.numel() for layer in held)
        assert quantized + sum(item.weights for item in coverage.left_float) == total
        assert coverage.weights == pytest.approx(quantized / total, abs=1e-12)
        whole = [each for each in student.layers if None not in operand_bits(each).values()]
        products = sum(student.macs[layer.name] for layer in whole)
        assert coverage.macs == pytest.approx(products / student.total_macs, abs=1e-12)
        left = sum(item.macs for item in coverage.left_float)
        assert products + left == coverage.total_macs == student.total_macs


@pytest.mark.parametrize("name", ["vit", "resnet", "pooler", "custom", "coca"])
def test_every_product_of_what_is_taken_apart_is_a_layer_s(build, name):
    student = prepare(build(name), copy=False)
    assert sum(student.macs.values()) == student.total_macs
    assert cover(student, SchemeRule()).macs == 1.0


def test_attention_that_is_not_taken_apart_lowers_the_share(build):
    """timm's attention multiplies q, k and v on its own: 6 blocks of 100 patches and a token."""
    student = prepare(build("timm"), copy=False)
    coverage = cover(student, SchemeRule())
    (other,) = (item for item in coverage.left_float if item.what == "other products")
    assert other.macs == 6 * 2 * 101 * 101 * 64
    assert other.why == "outside the layers qkit swaps"
    assert coverage.macs == pytest.approx(1 - other.macs / student.total_macs, abs=1e-12)
    assert coverage.macs < 0.8


def test_decoder_beside_the_encoders_is_named_and_counted(build):
    student = prepare(build("coca"), copy=False)
    decoder = sum(p.numel() for p in student.model.text_decoder.parameters())
    coverage = cover(student, SchemeRule())
    left = {item.what: item for item in coverage.left_float}
    assert left["text_decoder"].weights == decoder
    assert left["text_decoder"].why == "no part of the two encoders"
    assert isinstance(student.model.text_decoder.cross_attn[0].attn, nn.MultiheadAttention)
