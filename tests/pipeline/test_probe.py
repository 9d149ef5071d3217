# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a part of the quantization does to the embedding space."""

import math
from dataclasses import astuple

import pytest
import torch
import torch.nn.functional as F

import qkit
from qkit.calibration.observe import Batch, set_mode
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.analyse import PARTS
from qkit.pipeline.probe import Prober, everything, nothing
from qkit.recipe import Recipe, SchemeRule
from qkit.report.space import compare_spaces
from qkit.spec import QuantSpec, Scheme

WEIGHTS = Recipe(rules=(SchemeRule(scheme=Scheme(weight=QuantSpec(4, True))),))
INPUTS = Recipe(rules=(SchemeRule(scheme=Scheme(input=QuantSpec(4))),))
FOUR = qkit.Overrides(bits=4, attn_bits=4)


@pytest.fixture(scope="module")
def probe(tiny_folder, shapes):
    """A prober of the tiny model quantized by a recipe."""

    def build(recipe=None, overrides=FOUR):
        data = f"captions:{shapes}/captions.csv"
        model = f"local-dir:{tiny_folder}"
        result = qkit.calibrate(model, data, recipe=recipe, method="minmax", overrides=overrides)
        student = result.student
        return Prober(student, list(result.data.batches(student.clip, 5)))

    return build


@pytest.fixture(scope="module")
def prober(probe):
    return probe()


def layer_of(prober, name):
    return next(layer for layer in prober.student.layers if layer.name == name)


def same(one, other):
    pairs = zip(astuple(one), astuple(other), strict=True)
    return all(a == b or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9) for a, b in pairs)


def test_features_are_those_of_the_model_normalised(prober):
    model = prober.student.model
    for mode, found in ((Mode.QUANTIZE, prober.quantized), (Mode.OFF, prober.float)):
        set_mode(model, mode)
        with torch.no_grad():
            images = torch.cat([model.encode_image(b.images) for b in prober.batches])
            texts = torch.cat([model.encode_text(b.texts) for b in prober.batches])
        assert torch.equal(found.images, F.normalize(images, dim=-1))
        assert torch.equal(found.texts, F.normalize(texts, dim=-1))
    set_mode(model, Mode.QUANTIZE)
    assert len(prober.float.images) == len(prober.float.texts) == 12
    assert prober.scale == pytest.approx(model.logit_scale.exp().item())


def test_all_parts_are_the_whole(prober):
    whole = prober.whole()
    assert prober.part(everything) == prober.part(PARTS["all"]) == whole
    assert whole == compare_spaces(prober.float, prober.quantized, prober.scale)
    assert whole.logit_kl > 0
    assert whole.ece_float is None


def test_no_part_changes_nothing(prober):
    none = prober.part(nothing)
    assert (none.logit_kl, none.churn, none.top1_agreement) == (0.0, 0.0, 1.0)
    assert none.gap_float == none.gap_quantized
    assert none.image_cosine == pytest.approx(1.0)


def test_weights_and_activations_each_do_less_than_both(prober):
    whole = prober.whole()
    for name in ("weights", "activations"):
        part = prober.part(PARTS[name])
        assert whole.image_cosine < part.image_cosine < 1
        assert whole.text_cosine < part.text_cosine < 1


def test_layer_inputs_and_attention_operands_make_up_the_activations(prober):
    activations = prober.encode("image", PARTS["activations"])
    both = prober.encode(
        "image",
        lambda layer, role: any(
            PARTS[name](layer, role) for name in ("layer inputs", "attention operands")
        ),
    )
    assert torch.equal(activations, both)
    for name in ("layer inputs", "attention operands"):
        assert not torch.equal(activations, prober.encode("image", PARTS[name]))


@pytest.mark.parametrize(
    ("recipe", "full", "empty"),
    [
        (WEIGHTS, ["weights"], ["activations", "layer inputs", "attention operands"]),
        (INPUTS, ["activations", "layer inputs"], ["weights", "attention operands"]),
    ],
)
def test_a_recipe_of_one_part_is_that_part_and_the_others_are_float(probe, recipe, full, empty):
    prober = probe(recipe, None)
    whole, none = prober.whole(), prober.part(nothing)
    assert whole.logit_kl > 0
    assert all(prober.part(PARTS[name]) == whole for name in full)
    assert all(prober.part(PARTS[name]) == none for name in empty)


def test_a_tower_alone_leaves_the_other_in_float(prober):
    whole = prober.whole()
    image, text = prober.part(PARTS["image tower"]), prober.part(PARTS["text tower"])
    assert image.image_cosine == whole.image_cosine
    assert text.text_cosine == whole.text_cosine
    assert image.text_cosine == text.image_cosine == pytest.approx(1.0)


@pytest.mark.parametrize(
    "name", ["visual.transformer.resblocks.0.attn.k_proj", "transformer.resblocks.1.mlp.c_proj"]
)
def test_one_layer_alone_and_one_layer_spared(prober, name):
    """The other tower is not run again; the result is the same as if it were."""
    layer = layer_of(prober, name)
    alone = prober.part(lambda other, role: other.name == name)
    spared = prober.part(lambda other, role: other.name != name)
    assert same(prober.layer_alone(layer), alone)
    assert same(prober.layer_spared(layer), spared)
    assert alone.logit_kl > 0
    assert not same(spared, prober.whole())


def test_texts_may_outnumber_images(prober):
    """Unreadable images are left out of a batch, their texts are not."""
    first, *rest = prober.batches
    fewer = Prober(prober.student, [first, *(Batch(None, batch.texts) for batch in rest)])
    assert torch.equal(fewer.float.images, prober.float.images[: len(first.images)])
    assert len(fewer.float.texts) == 12
    assert fewer.whole().logit_kl > 0
    assert fewer.part(everything) == fewer.whole()
