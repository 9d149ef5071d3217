# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The error that a layer is given, and how it compares with what the layer makes itself."""

import math

import pytest
import torch
from open_clip.modified_resnet import AttentionPool2d
from torch import nn

from calibrators.minmax import MinMax
from qkit.calibration.install import install
from qkit.calibration.observe import Batch, observe, set_mode
from qkit.calibration.session import open_session
from qkit.clip.attention import QuantAttentionPool
from qkit.graph.attach import attach
from qkit.graph.layers import list_layers
from qkit.graph.match import decide
from qkit.nn.conv import QuantConv2d
from qkit.nn.tensor_quantizer import Mode
from qkit.recipe import Recipe, SchemeRule, override
from qkit.recipe.overrides import Overrides
from qkit.report.build import Known, build_reports
from qkit.report.diagnose import diagnose
from qkit.report.measure import measure
from qkit.spec import Scheme

RESBLOCKS = "visual.transformer.resblocks"


def silent(done, **figures):
    """Swallows progress."""


def seen_by(model, module, batch, mode, before=False):
    """What a module gets, or gives, in a forward of the model in some mode."""
    seen = []
    if before:
        handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    else:
        handle = module.register_forward_hook(lambda *call: seen.append(call[-1]))
    set_mode(model, mode)
    with torch.no_grad():
        model.encode_image(batch.images)
    set_mode(model, Mode.QUANTIZE)
    handle.remove()
    return seen[0]


def in_float(module, x):
    """A layer's float output for ``x``, by plain arithmetic."""
    with torch.no_grad():
        return nn.functional.linear(x, module.weight, module.bias)


def error(output, off):
    return (off - output).double().square().sum().item()


@pytest.fixture
def student(quantize):
    return quantize(override(Recipe(), Overrides(bits=4, attn_bits=4)))


@pytest.fixture
def image(batches):
    return Batch(batches[0].images, None)


def measured(student, batches, every=1):
    return measure(student.model, student.layers, student.blocks, batches, silent, every)


@pytest.mark.parametrize("name", [f"{RESBLOCKS}.1.mlp.c_proj", "visual.proj"])
def test_it_is_the_float_layer_fed_with_what_arrives(student, image, name):
    module = student.model.get_submodule(name)
    arrived = seen_by(student.model, module, image, Mode.QUANTIZE, before=True)
    output = seen_by(student.model, module, image, Mode.OFF)
    found = measured(student, [image]).layers[name].inherited
    assert found.noise == pytest.approx(error(output, in_float(module, arrived)), rel=1e-4)
    assert found.noise > 0


@pytest.mark.parametrize("part", ["q_proj", "k_proj", "v_proj"])
def test_what_arrives_at_q_k_and_v_is_not_rounded_yet(student, image, part):
    block = student.model.get_submodule(f"{RESBLOCKS}.1")
    module = block.attn.get_submodule(part)
    arrived = seen_by(student.model, block.ln_1, image, Mode.QUANTIZE)
    output = seen_by(student.model, module, image, Mode.OFF)
    sums = measured(student, [image]).layers[f"{RESBLOCKS}.1.attn.{part}"]
    by_hand = error(output, in_float(module, arrived).reshape(output.shape))
    assert sums.inherited.noise == pytest.approx(by_hand, rel=1e-4)
    assert sums.inherited.noise < sums.cumulative.noise


def test_an_attention_core_is_given_q_k_and_v(student, image):
    core = student.model.get_submodule(f"{RESBLOCKS}.0.attn.sdpa")
    arrived = []
    handle = core.register_forward_pre_hook(lambda _, inputs: arrived.append(inputs[:3]))
    with torch.no_grad():
        student.model.encode_image(image.images)
    handle.remove()
    output = seen_by(student.model, core, image, Mode.OFF)
    q, k, v = arrived[0]
    off = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v
    found = measured(student, [image]).layers[f"{RESBLOCKS}.0.attn.sdpa"].inherited
    assert found.noise == pytest.approx(error(output, off), rel=1e-4)


class Pooled(nn.Module):
    """A convolution and the pooling head of CLIP's ResNets, which computes one query only."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = QuantConv2d.from_float(nn.Conv2d(3, 16, 8, stride=8))
        self.pool = QuantAttentionPool.from_float(AttentionPool2d(4, 16, 2, 8))

    def encode_image(self, x):
        return self.pool(self.conv(x))


def test_a_layer_that_keeps_the_first_queries_inherits_only_their_error(pixels):
    model, batch = Pooled().eval(), Batch(pixels, None)
    layers = list_layers(model, {"image": ("conv", "pool")})
    recipe = override(Recipe(), Overrides(bits=4))
    attach(model, layers, recipe.rules, decide(recipe.rules, layers))
    observe(model, [batch], silent)
    install(model, MinMax().calibrate(open_session(model, layers), silent))
    tokens = seen_by(model, model.pool.input_quantizer, batch, Mode.QUANTIZE, before=True)
    output = seen_by(model, model.pool.q_proj, batch, Mode.OFF)
    found = measure(model, layers, (), [batch], silent).layers["pool.q_proj"].inherited
    by_hand = error(output, in_float(model.pool.q_proj, tokens[:, :1]))
    assert output.shape[1] == 1 < tokens.shape[1]
    assert found.noise == pytest.approx(by_hand, rel=1e-4)


def test_nothing_is_inherited_at_the_first_layer(student, image):
    found = measured(student, [image]).layers["visual.conv1"]
    assert found.inherited.sqnr_db == math.inf
    assert found.local.noise == found.cumulative.noise > 0


def test_local_and_inherited_come_from_every_second_batch_and_the_rest_from_all(student, batches):
    three = [*batches, Batch(batches[0].images * 0.7, batches[0].texts.flip(0))]
    thinned = measured(student, three, every=2)
    outer, every = measured(student, [three[0], three[2]]), measured(student, three)
    for name, sums in thinned.layers.items():
        assert sums.local == outer.layers[name].local
        assert sums.inherited == outer.layers[name].inherited
        assert sums.cumulative == every.layers[name].cumulative
        assert sums.input.clipped == every.layers[name].input.clipped
    assert thinned.blocks == every.blocks
    assert thinned.embedding_cosine == every.embedding_cosine
    assert outer.layers["visual.proj"].local != every.layers["visual.proj"].local


def test_what_a_layer_makes_is_its_share_of_both_errors(student, quantize, batches):
    found = measured(student, batches)
    closer = diagnose(student.model, student.layers, student.blocks, batches[0], found)
    known = Known(quantize.seen, student.macs, found, closer)
    layers, _ = build_reports(student.layers, student.blocks, known)
    for layer in layers:
        noises = [10 ** (-x / 10) for x in (layer.local_sqnr_db, layer.inherited_sqnr_db)]
        assert 0 <= layer.made <= 1
        assert layer.made == pytest.approx(noises[0] / sum(noises))
    assert layers[0].made == 1.0


def test_a_layer_makes_nothing_where_nothing_is_lost(quantize, batches):
    student = quantize(Recipe(rules=(SchemeRule("visual.conv1", scheme=Scheme()), SchemeRule())))
    found = measured(student, batches)
    closer = diagnose(student.model, student.layers, student.blocks, batches[0], found)
    known = Known(quantize.seen, student.macs, found, closer)
    layers, _ = build_reports(student.layers, student.blocks, known)
    assert layers[0].inherited_sqnr_db == layers[0].local_sqnr_db == math.inf
    assert layers[0].made == 0.0
