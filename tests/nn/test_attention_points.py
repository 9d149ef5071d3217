# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The points of an attention: one on its input, one on each operand of its two products."""

import pytest
import torch
from torch import nn

from qkit.nn.attention import OPERANDS, QuantSDPA
from qkit.nn.multihead import QuantMultiheadAttention
from qkit.nn.tensor_quantizer import Mode
from qkit.numerics import fake_quantize, make_grid
from qkit.spec import PointId, QuantSpec, Scheme

DIM, HEADS = 12, 3


@pytest.fixture
def module(fill):
    return fill(nn.MultiheadAttention(DIM, HEADS, batch_first=True))


def relative(out, expected):
    return ((out - expected).norm() / expected.norm()).item()


def with_operands(module, bits):
    quantized = QuantMultiheadAttention.from_float(module)
    quantized.sdpa.attach("attn.sdpa", QuantSpec(bits))
    return quantized


def test_core_without_points_is_torch_s_own(normal):
    q, k, v = (normal(2, HEADS, 5, 4) for _ in range(3))
    expected = nn.functional.scaled_dot_product_attention(q, k, v)
    assert torch.equal(QuantSDPA()(q, k, v), expected)


@pytest.mark.parametrize("masked", [False, True])
def test_observing_core_computes_the_same(normal, masked):
    q, k, v = normal(2, HEADS, 5, 4), normal(2, HEADS, 7, 4), normal(2, HEADS, 7, 4)
    mask = normal(5, 7) if masked else None
    core = QuantSDPA()
    expected = core(q, k, v, mask)
    core.attach("sdpa", QuantSpec(8))
    for point in core.points():
        point.set_mode(Mode.OBSERVE)
    torch.testing.assert_close(core(q, k, v, mask), expected, rtol=1e-5, atol=1e-6)
    assert [point.point for point in core.points()] == [PointId("sdpa", r) for r in OPERANDS]
    probs = core.points()[-1].stats()
    assert 0 <= probs.min_val < probs.max_val <= 1
    assert core.points()[0].stats().max_val == q.max()


def test_quantized_core_rounds_each_operand(normal, calibrate):
    q, k, v = normal(2, HEADS, 5, 4), normal(2, HEADS, 7, 4), normal(2, HEADS, 7, 4)
    core = QuantSDPA()
    core.attach("sdpa", QuantSpec(3))
    calibrate(core, q, k, v)
    grids = [make_grid(point.qparams, point.spec) for point in core.points()]
    q_, k_, v_ = (fake_quantize(x, grid) for x, grid in zip((q, k, v), grids[:3], strict=True))
    probs = fake_quantize((q_ @ k_.mT / 2).softmax(-1), grids[3])
    torch.testing.assert_close(core(q, k, v), probs @ v_, rtol=1e-5, atol=1e-6)


def test_more_bits_are_closer(module, normal, calibrate):
    x = normal(4, 9, DIM)
    expected, _ = module(x, x, x, need_weights=False)
    errors = {}
    for bits in (8, 2):
        quantized = with_operands(module, bits)
        calibrate(quantized, x, x, x, need_weights=False)
        errors[bits] = relative(quantized(x, x, x, need_weights=False)[0], expected)
        assert [point.fired for point in quantized.sdpa.points()] == [1, 1, 1, 1]
    assert 0 < errors[8] < 0.02
    assert errors[2] > 0.1


def test_dropout_of_an_observed_core_acts_where_it_is_asked_for(normal):
    q, k, v = (normal(2, HEADS, 5, 4) for _ in range(3))
    core = QuantSDPA()
    core.attach("sdpa", QuantSpec(8))
    core.points()[-1].set_mode(Mode.OBSERVE)
    assert torch.equal(core(q, k, v), core(q, k, v))
    torch.manual_seed(0)
    dropped = core(q, k, torch.ones_like(v), dropout=0.5)
    assert len(dropped.unique()) > 10  # rows of probabilities no longer add up to 1
    assert core.points()[-1].stats().max_val <= 1


def test_attaching_nothing_removes_the_operand_points(module):
    quantized = with_operands(module, 8)
    quantized.sdpa.attach("attn.sdpa", None)
    assert quantized.sdpa.points() == []


def test_self_attention_shares_one_input_point(module, normal, calibrate):
    quantized = QuantMultiheadAttention.from_float(module)
    quantized.attach_inputs("attn", QuantSpec(8), QuantSpec(8))
    x = normal(2, 5, DIM)
    calibrate(quantized, x, x, x, need_weights=False)
    point = quantized.input_quantizer
    assert point.point == PointId("attn", "input")
    assert quantized.context_quantizer is None
    for projection in (quantized.q_proj, quantized.k_proj, quantized.v_proj):
        assert quantized.input_quantizer_of(projection) is point
    rounded = fake_quantize(x, make_grid(point.qparams, point.spec))
    out, _ = quantized(x, x, x, need_weights=False)
    assert point.fired == 1
    expected, _ = module(rounded, rounded, rounded, need_weights=False)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_point_fires_once_a_call_where_time_comes_first(fill, normal, calibrate):
    module = fill(nn.MultiheadAttention(DIM, HEADS))
    quantized = QuantMultiheadAttention.from_float(module)
    quantized.attach_inputs("attn", QuantSpec(8), None)
    x = normal(5, 2, DIM)
    calibrate(quantized, x, x, x, need_weights=False)
    for count in (1, 2):
        quantized(x, x, x, need_weights=False)
        assert quantized.input_quantizer.fired == count


def test_cross_attention_has_a_point_on_its_context(fill, normal, calibrate):
    module = fill(nn.MultiheadAttention(DIM, HEADS, kdim=8, vdim=8, batch_first=True))
    quantized = QuantMultiheadAttention.from_float(module)
    quantized.attach_inputs("attn", QuantSpec(8), QuantSpec(4))
    query, key = normal(2, 5, DIM), normal(2, 7, 8) * 100
    calibrate(quantized, query, key, key, need_weights=False)
    context = quantized.context_quantizer
    assert context.point == PointId("attn", "context")
    assert quantized.input_quantizer_of(quantized.q_proj) is quantized.input_quantizer
    assert quantized.input_quantizer_of(quantized.k_proj) is context
    assert quantized.input_quantizer_of(quantized.v_proj) is context
    rounded = [
        fake_quantize(x, make_grid(point.qparams, point.spec))
        for x, point in ((query, quantized.input_quantizer), (key, context))
    ]
    expected, _ = module(rounded[0], rounded[1], rounded[1], need_weights=False)
    out, _ = quantized(query, key, key, need_weights=False)
    assert (quantized.input_quantizer.fired, context.fired) == (1, 1)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-4)


def test_projections_have_weight_points_of_their_own(module, normal, calibrate):
    quantized = QuantMultiheadAttention.from_float(module)
    spec = QuantSpec(2, symmetric=True)
    for name in ("q_proj", "k_proj", "v_proj"):
        getattr(quantized, name).attach(f"attn.{name}", Scheme(weight=spec))
    x = normal(2, 5, DIM)
    calibrate(quantized, x, x, x, need_weights=False)
    expected, _ = module(x, x, x, need_weights=False)
    assert relative(quantized(x, x, x, need_weights=False)[0], expected) > 0.05
    levels = torch.unique(quantized.q_proj.quantized_weight())
    assert len(levels) <= 4
