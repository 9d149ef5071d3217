# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A part quantized, the rest float: the same bits as the same thing done by hand."""

from collections import defaultdict
from contextlib import ExitStack, contextmanager

import pytest
import torch
import torch.nn.functional as F

import qkit
from qkit.calibration.observe import set_mode
from qkit.graph.layers import list_points
from qkit.graph.partial import only
from qkit.nn.tensor_quantizer import Mode

ATTN = "visual.transformer.resblocks.0.attn"
ALONE = (
    *(f"{ATTN}.{part}" for part in ("q_proj", "k_proj", "out_proj", "sdpa")),
    "transformer.resblocks.1.attn.v_proj",
    "transformer.resblocks.0.attn.sdpa",
    "transformer.resblocks.1.mlp.c_fc",
    "visual.conv1",
    "visual.proj",
    "token_embedding",
)


def calibrate(clip, shapes, **flags):
    overrides = qkit.Overrides(bits=4, samples=6, method="minmax", **flags)
    return qkit.calibrate(clip, f"captions:{shapes}/captions.csv", overrides=overrides).student


@pytest.fixture(scope="module", params=["tensor", "token"])
def calibrated(request, tiny_folder, shapes):
    """The tiny model at 4 bits, its activations per tensor and per token."""
    spec = f"local-dir:{tiny_folder}"
    return calibrate(spec, shapes, attn_bits=4, act_granularity=request.param)


@pytest.fixture
def features(calibrated, pixels, tokens):
    """Features of both towers in some state of the points."""

    @torch.no_grad()
    def encode():
        model = calibrated.model
        return torch.cat([model.encode_image(pixels), model.encode_text(tokens)])

    return encode


@pytest.fixture
def partly(calibrated, features):
    """Features with the chosen operands quantized."""

    def encode(chosen):
        with only(calibrated.layers, chosen):
            return features()

    return encode


def named(*names):
    return lambda layer, role: layer.name in names


def without(*names):
    return lambda layer, role: layer.name not in names


@contextmanager
def in_mode(model, mode):
    set_mode(model, mode)
    try:
        yield
    finally:
        set_mode(model, Mode.QUANTIZE)


@contextmanager
def seen_by(layers):
    """Inputs and outputs of layers by name, as their own code gets and gives them."""
    seen = defaultdict(list)
    with ExitStack() as stack:
        for layer in layers:

            def note(module, inputs, output, name=layer.name):
                seen[name].append((inputs[0], output))

            stack.callback(layer.module.register_forward_hook(note).remove)
        yield seen


@pytest.mark.parametrize("before", [Mode.OFF, Mode.QUANTIZE])
def test_everything_is_the_quantized_model(calibrated, features, partly, before):
    expected = features()
    with in_mode(calibrated.model, before):
        assert torch.equal(partly(lambda layer, role: True), expected)


@pytest.mark.parametrize("before", [Mode.OFF, Mode.QUANTIZE])
def test_nothing_is_the_float_model(calibrated, tiny, features, partly, pixels, before):
    with in_mode(calibrated.model, Mode.OFF):
        expected = features()
    with in_mode(calibrated.model, before):
        assert torch.equal(partly(lambda layer, role: False), expected)
    assert not torch.equal(expected, features())
    known = tiny.model.encode_image(pixels)
    assert torch.allclose(expected[: len(known)], known, atol=1e-5)


@pytest.mark.parametrize("name", ALONE)
def test_one_layer_is_that_layer_run_alone_in_the_float_model(calibrated, features, partly, name):
    layer = next(layer for layer in calibrated.layers if layer.name == name)
    with in_mode(calibrated.model, Mode.OFF):
        plain = features()
        alone = layer.module.register_forward_hook(lambda _, inputs, __: layer.run_alone(inputs))
        expected = features()
        alone.remove()
    assert not torch.equal(expected, plain)
    assert torch.equal(partly(named(name)), expected)


@pytest.mark.parametrize("role", ["weight", "input", "query"])
def test_one_kind_of_operand_is_its_points_switched_on(calibrated, features, partly, role):
    with in_mode(calibrated.model, Mode.OFF):
        for point in list_points(calibrated.model):
            if point.point.role == role:
                point.set_mode(Mode.QUANTIZE)
        expected = features()
    assert not torch.equal(expected, features())
    assert torch.equal(partly(lambda layer, mine: mine == role), expected)


def test_without_k_alone_q_and_v_still_round_their_input(calibrated, features):
    parts = {part: f"{ATTN}.{part}" for part in ("q_proj", "k_proj", "v_proj")}
    layers = [layer for layer in calibrated.layers if layer.name in parts.values()]
    shared = layers[0].input_quantizers[0]
    with only(calibrated.layers, without(parts["k_proj"])), seen_by(layers) as seen:
        features()
    (q, _), (k, keys), (v, _) = (seen[parts[part]][0] for part in parts)
    assert torch.equal(q, shared.round(k))
    assert torch.equal(v, shared.round(k))
    assert not torch.equal(q, k)
    module = next(layer.module for layer in layers if layer.name == parts["k_proj"])
    assert torch.equal(keys, F.linear(k, module.weight, module.bias))


def test_key_and_value_of_another_tensor_are_told_apart_too(build, shapes, pixels):
    """An attention pooler reads its queries from one tensor, keys and values from another."""
    student = calibrate(build("pooler"), shapes)
    pool = "visual.attn_pool.attn"
    layers = [x for x in student.layers if x.name in {f"{pool}.{p}_proj" for p in "qkv"}]
    context = student.model.get_submodule(pool).context_quantizer
    with torch.no_grad(), seen_by(layers) as seen:
        with only(student.layers, named(f"{pool}.v_proj")):
            student.model.encode_image(pixels)
        with only(student.layers, lambda layer, role: False):
            student.model.encode_image(pixels)
    for part in "qk":
        (mine, out), (plain, plain_out) = seen[f"{pool}.{part}_proj"]
        assert torch.equal(mine, plain)
        assert torch.equal(out, plain_out)
    (value, _), (plain, _) = seen[f"{pool}.v_proj"]
    assert torch.equal(value, context.round(plain))
    assert not torch.equal(value, plain)


def state(model):
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]
    return [point.mode for point in list_points(model)], hooks


@pytest.mark.parametrize("chosen", [named(ALONE[0]), without(ALONE[1]), without()])
def test_modes_and_hooks_are_as_before_also_after_an_error(calibrated, chosen):
    points = list_points(calibrated.model)
    try:
        for point, mode in zip(points, 100 * tuple(Mode), strict=False):
            point.set_mode(mode)
        before = state(calibrated.model)
        with only(calibrated.layers, chosen):
            inside = state(calibrated.model)
        assert state(calibrated.model) == before != inside
        with pytest.raises(KeyboardInterrupt), only(calibrated.layers, chosen):
            raise KeyboardInterrupt
        assert state(calibrated.model) == before
    finally:
        set_mode(calibrated.model, Mode.QUANTIZE)


def test_a_choice_that_fails_leaves_the_modes_as_they_were(calibrated):
    before = state(calibrated.model)

    def fails(layer, role):
        if layer.name == "visual.proj":
            raise ValueError(role)
        return False

    with pytest.raises(ValueError, match="input"), only(calibrated.layers, fails):
        pass
    assert state(calibrated.model) == before
