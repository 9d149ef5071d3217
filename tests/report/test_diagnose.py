# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A closer look at a model: what it finds is exact, and the model is as before."""

import math

import pytest
import torch

import qkit.report.diagnose
from qkit.calibration.observe import Batch, set_mode
from qkit.graph.layers import list_points
from qkit.nn.tensor_quantizer import Mode
from qkit.recipe import Recipe, SchemeRule
from qkit.report.diagnose import diagnose
from qkit.report.measure import measure
from qkit.spec import Scheme
from tests.report.conftest import bits, features

BLOCK = "visual.transformer.resblocks.1"


def in_float(student, batch):
    set_mode(student.model, Mode.OFF)
    features(student.model, batch)
    set_mode(student.model, Mode.QUANTIZE)


def passing(student, name, batch, kwargs=False):
    """What a module of the float model gets and gives."""
    seen = []
    module = student.model.get_submodule(name)
    handle = module.register_forward_hook(lambda *call: seen.append(call[1:]), with_kwargs=kwargs)
    in_float(student, batch)
    handle.remove()
    return seen[0]


def state(student):
    points = list_points(student.model)
    hooks = [len(module._forward_hooks) for module in student.model.modules()]
    return [(point.mode, point.fired, point.version) for point in points], hooks


@pytest.fixture
def look(batches):
    """Measure and diagnose a student on the first batch."""

    def run(student, blocks=None):
        blocks = student.blocks if blocks is None else blocks
        parts = (student.model, student.layers, blocks)
        measured = measure(*parts, batches[:1], lambda done, **figures: None)
        return measured, diagnose(*parts, batches[0], measured)

    return run


@pytest.mark.parametrize("granularity", ["tensor", "channel", "token"])
def test_the_model_is_as_before(quantize, batches, granularity):
    student = quantize(bits(4, granularity))
    measured = measure(student.model, student.layers, (), batches, lambda done, **figures: None)
    features_before = features(student.model, batches[0])
    before = state(student)
    diagnose(student.model, student.layers, student.blocks, batches[0], measured)
    assert state(student) == before
    assert {point.mode for point in list_points(student.model)} == {Mode.QUANTIZE}
    assert all(map(torch.equal, features_before, features(student.model, batches[0])))


@pytest.mark.parametrize("broken", ["input", "layer", "block"])
def test_the_model_is_as_before_after_an_interruption(quantize, look, batches, broken):
    student = quantize(bits(4))
    measured, _ = look(student)
    before, batch = state(student), batches[0]
    if broken == "input":
        batch = Batch(batch.images[:, :2], None)
    module = student.model.get_submodule(f"{BLOCK}.mlp.c_fc")
    forward = module.forward

    def fail(x):
        if broken == "layer" or (
            broken == "block" and module.weight_quantizer.mode is not Mode.OFF
        ):
            message = "expected channels"
            raise RuntimeError(message)
        return forward(x)

    module.forward = fail
    # the layers are left out where they would fail before the blocks do
    layers = () if broken == "block" else student.layers
    with pytest.raises(RuntimeError, match="channels"):
        diagnose(student.model, layers, student.blocks, batch, measured)
    assert state(student) == before


@pytest.mark.parametrize("number", [0, 3])
def test_a_block_s_error_is_what_it_does_alone(quantize, look, batches, number):
    student = quantize(bits(4))
    _, found = look(student)
    block = student.blocks[number]
    args, kwargs, output = passing(student, block.name, batches[0], kwargs=True)
    with torch.no_grad():
        alone = block.module(*args, **kwargs)
    noise = (alone - output).double().square().sum().item()
    assert found.blocks[block.name].noise == pytest.approx(noise, rel=1e-5)
    signal = output.double().square().sum().item()
    assert found.blocks[block.name].signal == pytest.approx(signal, rel=1e-5)
    assert noise > 0


def test_every_output_value_s_error_is_counted_in_units_of_the_output(quantize, look, batches):
    student = quantize(bits(4))
    _, found = look(student)
    assert set(found.layers) == {layer.name for layer in student.layers}
    for layer in student.layers:
        inputs, output = passing(student, layer.name, batches[0])
        with torch.no_grad():
            off = (layer.run_alone(inputs) - output) / output.square().mean().sqrt()
        errors = found.layers[layer.name].errors
        assert sum(errors.counts) == output.numel()
        ends = (off.min().item(), off.max().item())
        assert (errors.low, errors.high) == pytest.approx(ends, rel=1e-4)


def test_gains_are_against_the_layer_s_own_error(quantize, look, batches):
    student = quantize(bits(4))
    measured, found = look(student)
    name = f"{BLOCK}.mlp.c_fc"
    module = student.model.get_submodule(name)
    (x,), output = passing(student, name, batches[0])
    with torch.no_grad():
        weight_float = module.product(module.input_quantizer.round(x), module.weight)
        input_float = module.product(x, module.weight_quantizer.round(module.weight))
    trials, now = found.layers[name].trials, measured.layers[name].local.noise
    for change, off in (("weight float", weight_float), ("input float", input_float)):
        left = (off - output).square().sum().item()
        assert trials[change] == pytest.approx(10 * math.log10(now / left), abs=1e-3)
    assert "now" not in trials


def test_the_spread_of_tokens(quantize, look, batches):
    student = quantize(bits(4))
    _, found = look(student)
    for layer in student.layers:
        spread = found.layers[layer.name].token_spread
        if layer.kind in ("conv", "embedding", "attention"):
            assert spread is None
            continue
        x = passing(student, layer.name, batches[0])[0][0]
        ranges = sorted((row.max() - row.min()).item() for row in x.flatten(0, -2))
        median = ranges[(len(ranges) - 1) // 2]
        assert spread == pytest.approx((x.max() - x.min()).item() / median, rel=1e-4)


def test_layers_left_in_float_are_not_looked_at(quantize, look):
    ignored = SchemeRule(f"{BLOCK}.*", scheme=Scheme())
    student = quantize(Recipe(rules=(ignored, SchemeRule())))
    _, found = look(student)
    left_out = {layer.name for layer in student.layers} - set(found.layers)
    assert left_out == {x.name for x in student.layers if x.name.startswith(BLOCK)}
    assert found.blocks[BLOCK].sqnr_db == math.inf
    assert found.blocks[BLOCK.replace("1", "0")].noise > 0


@pytest.mark.parametrize("name", [f"{BLOCK}.mlp.c_fc", f"{BLOCK}.attn.k_proj", "token_embedding"])
def test_of_many_tokens_evenly_spaced_ones_are_looked_at(
    quantize, look, batches, monkeypatch, name
):
    monkeypatch.setattr(qkit.report.diagnose, "ROWS", 20)
    student = quantize(bits(4))
    _, found = look(student)
    layer = next(layer for layer in student.layers if layer.name == name)
    inputs, output = passing(student, name, batches[0])
    with torch.no_grad():
        off = (layer.run_alone(inputs) - output).flatten(0, -2)
    rows = len(off)
    some = slice(None, None, 3 if name == "token_embedding" else 4)  # of 48, and of 68
    left = off[some] / output.flatten(0, -2)[some].square().mean().sqrt()
    errors = found.layers[name].errors
    assert rows > 20 >= len(left)
    assert sum(errors.counts) == left.numel()
    ends = (left.min().item(), left.max().item())
    assert (errors.low, errors.high) == pytest.approx(ends, rel=1e-4)
