# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Which operand of an attention core is to blame, and what would help it."""

import pytest
import torch

from qkit.graph.layers import Layer
from qkit.nn.attention import OPERANDS, QuantSDPA
from qkit.nn.tensor_quantizer import Mode, TensorQuantizer
from qkit.numerics import qparams_from_range
from qkit.report.trials import try_attention
from qkit.spec import Granularity, PointId, QuantSpec, Range

SHAPE = (2, 3, 6, 8)


@pytest.fixture
def inputs(normal):
    mask = torch.full((6, 6), float("-inf")).triu(1)
    return *(normal(*SHAPE) for _ in range(3)), mask


def operands(inputs):
    """Float operands and output, step by step."""
    q, k, v, mask = inputs
    probs = (q @ k.transpose(-1, -2) / 8**0.5 + mask).softmax(dim=-1)
    return {"query": q, "key": k, "value": v, "probs": probs}, probs @ v


@pytest.fixture
def core(inputs):
    """A core with all operands at 8 bits but one, its scales from the float operands."""

    def make(poor=None, bits=2, granularity=Granularity.TENSOR):
        module = QuantSDPA()
        module.attach("a", QuantSpec(8))
        values, _ = operands(inputs)
        for role in OPERANDS:
            if role == poor:
                spec = QuantSpec(bits, False, granularity)
                module.operands[role] = TensorQuantizer(PointId("a", role), spec, axis=-1)
            point, x = module.operands[role], values[role]
            if not point.spec.dynamic:
                point.set_qparams(qparams_from_range(Range(x.min(), x.max()), point.spec))
        return Layer("a", "image", "attention", module)

    return make


def by_hand(layer, inputs, changed=None, other=None):
    """Energy of the error with one operand rounded otherwise."""
    q, k, v, mask = inputs
    points = layer.module.operands

    def rounded(role, x):
        return other(x) if role == changed else points[role].round(x)

    scores = rounded("query", q) @ rounded("key", k).transpose(-1, -2) / 8**0.5 + mask
    output = rounded("probs", scores.softmax(dim=-1)) @ rounded("value", v)
    return (output - operands(inputs)[1]).square().sum().item()


def tokens_rounded(x, bits=2):
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    scale = ((high - low) / (2**bits - 1)).clamp(min=1e-7)
    zero = torch.round(-low / scale)
    return (torch.round(x / scale + zero).clamp(0, 2**bits - 1) - zero) * scale


def on_log_sqrt2(x, bits=2):
    levels = torch.tensor([0.0, *(2 ** (-k / 2) for k in range(2**bits - 1))]) * x.max()
    return levels[(x[..., None] - levels).abs().argmin(dim=-1)]


@pytest.mark.parametrize("role", OPERANDS)
def test_the_operand_with_few_bits_is_to_blame(core, inputs, role):
    found = try_attention(core(role), inputs, operands(inputs)[1])
    floats = {name: noise for name, noise in found.items() if name.endswith(" float")}
    assert set(floats) == {f"{each} float" for each in OPERANDS}
    assert min(floats, key=floats.get) == f"{role} float"
    assert found["now"] / found[f"{role} float"] > 10
    of_probs = {"probs log-sqrt2"} if role == "probs" else set()
    helped = {"now", f"{role} at 8 bits", f"{role} per token"}
    assert set(found) - set(floats) == helped | of_probs


@pytest.mark.parametrize("role", ["probs", "key"])
def test_each_change_does_what_its_name_says(core, inputs, role):
    layer = core(role)
    found = try_attention(layer, inputs, operands(inputs)[1])
    assert found["now"] == pytest.approx(by_hand(layer, inputs), rel=1e-4)
    for other in OPERANDS:
        noise = by_hand(layer, inputs, other, lambda x: x)
        assert found[f"{other} float"] == pytest.approx(noise, rel=1e-3)
    noise = by_hand(layer, inputs, role, tokens_rounded)
    assert found[f"{role} per token"] == pytest.approx(noise, rel=1e-3)

    def finer(x):
        low, high = float(x.min().clamp(max=0)), float(x.max())
        scale = (high - low) / 255
        return torch.fake_quantize_per_tensor_affine(x, scale, round(-low / scale), 0, 255)

    noise = by_hand(layer, inputs, role, finer)
    assert found[f"{role} at 8 bits"] == pytest.approx(noise, rel=1e-3)
    if role == "probs":
        noise = by_hand(layer, inputs, role, on_log_sqrt2)
        assert found["probs log-sqrt2"] == pytest.approx(noise, rel=1e-3)


def test_what_does_not_apply_is_not_tried(core, inputs):
    output = operands(inputs)[1]
    assert not any(" at " in name for name in try_attention(core(), inputs, output))
    token = try_attention(core("probs", 2, Granularity.TOKEN), inputs, output)
    assert "probs at 8 bits" in token
    assert "probs per token" not in token


def test_a_mask_may_be_missing(core, inputs):
    q, k, v, mask = inputs
    without = (q, k, v, torch.zeros_like(mask))
    layer, output = core("probs"), operands(without)[1]
    assert try_attention(layer, (q, k, v), output) == try_attention(layer, without, output)


def test_trials_leave_the_core_as_it_was(core, inputs):
    layer = core("probs")
    for number, point in enumerate(layer.points):
        point.mode, point.fired = Mode.QUANTIZE, number
    before = [(*point.qparams, point.version) for point in layer.points]
    given = [x.clone() for x in inputs]
    try_attention(layer, inputs, operands(inputs)[1])
    assert [point.fired for point in layer.points] == [0, 1, 2, 3]
    assert {point.mode for point in layer.points} == {Mode.QUANTIZE}
    assert [(*point.qparams, point.version) for point in layer.points] == before
    assert all(map(torch.equal, inputs, given))
