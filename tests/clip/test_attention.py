# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""open_clip's own attention modules, apart and together again."""

import pytest
import torch
from open_clip.modified_resnet import AttentionPool2d
from open_clip.transformer import Attention, AttentionalPooler
from torch import nn

from qkit.clip.attention import QuantAttentionPool, QuantOpenClipAttention, swap_pooler
from qkit.graph.layers import list_points
from qkit.graph.walker import restore
from qkit.nn.multihead import QuantMultiheadAttention
from qkit.nn.tensor_quantizer import Mode
from qkit.spec import PointId, QuantSpec

DIM, HEADS, LENGTH, BATCH = 12, 3, 5, 2
VARIANTS = {
    "plain": {},
    "bare": {"qkv_bias": False},
    "qk_norm": {"qk_norm": True},
    "scaled_cosine": {"scaled_cosine": True},
    "scale_heads": {"scale_heads": True},
    "inner_norm": {"inner_norm": True},
    "all": {"qk_norm": True, "scale_heads": True, "inner_norm": True, "proj_drop": 0.1},
}
CAUSAL = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
MASKS = {
    "none": None,
    "bool": CAUSAL,
    "float": torch.zeros(LENGTH, LENGTH).masked_fill(CAUSAL, float("-inf")),
    "heads": torch.linspace(-3, 3, BATCH * HEADS * LENGTH**2).reshape(-1, LENGTH, LENGTH),
    "heads-4d": torch.linspace(-3, 3, BATCH * HEADS * LENGTH**2).reshape(BATCH, HEADS, LENGTH, -1),
}


@pytest.fixture(params=VARIANTS)
def attention(request, fill, monkeypatch):
    # open_clip multiplies 4-d tensors with bmm in cosine attention, which torch refuses
    monkeypatch.setattr(torch, "bmm", torch.matmul)
    return fill(Attention(DIM, HEADS, **VARIANTS[request.param]))


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same_state(module, before):
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("mask", MASKS)
def test_attention_equals_open_clip_s(attention, normal, mask):
    x = normal(BATCH, LENGTH, DIM)
    expected = attention(x, attn_mask=MASKS[mask])
    quantized = QuantOpenClipAttention.from_float(attention)
    torch.testing.assert_close(quantized(x, attn_mask=MASKS[mask]), expected, rtol=1e-5, atol=1e-5)


def test_attention_there_and_back(attention, normal):
    x, before = normal(BATCH, LENGTH, DIM), state_of(attention)
    expected = attention(x)
    back = QuantOpenClipAttention.from_float(attention).to_float()
    assert type(back) is Attention
    assert repr(back) == repr(attention)
    assert_same_state(back, before)
    assert torch.equal(back(x), expected)


def test_attention_is_observed_at_its_input_and_its_operands(attention, normal):
    quantized = QuantOpenClipAttention.from_float(attention)
    quantized.attach_inputs("attn", QuantSpec(8), None)
    quantized.sdpa.attach("attn.sdpa", QuantSpec(8))
    points = list_points(quantized)
    for point in points:
        point.set_mode(Mode.OBSERVE)
    x = normal(BATCH, LENGTH, DIM)
    torch.testing.assert_close(quantized(x), attention(x), rtol=1e-5, atol=1e-5)
    assert [point.fired for point in points] == [1] * 5
    assert quantized.input_quantizer.stats().max_val == x.max()


@pytest.fixture
def pool(fill):
    return fill(AttentionPool2d(4, DIM, HEADS, output_dim=7))


def test_pool_equals_open_clip_s(pool, normal):
    x = normal(BATCH, DIM, 4, 4)
    quantized = QuantAttentionPool.from_float(pool)
    torch.testing.assert_close(quantized(x), pool(x), rtol=1e-5, atol=1e-5)


def test_pool_computes_the_query_of_the_mean_token_alone(pool, normal):
    quantized = QuantAttentionPool.from_float(pool)
    shapes = {}
    for name in ("q_proj", "k_proj"):
        part = getattr(quantized, name)
        part.register_forward_hook(lambda _, ins, out, name=name: shapes.update({name: out.shape}))
    quantized(normal(BATCH, DIM, 4, 4))
    assert shapes == {"q_proj": (BATCH, 1, DIM), "k_proj": (BATCH, 17, DIM)}


def test_pool_there_and_back(pool, normal):
    x, before = normal(BATCH, DIM, 4, 4), state_of(pool)
    expected = pool(x)
    back = QuantAttentionPool.from_float(pool).to_float()
    assert type(back) is AttentionPool2d
    assert repr(back) == repr(pool)
    assert back.num_heads == pool.num_heads
    assert_same_state(back, before)
    assert torch.equal(back(x), expected)


def test_pool_observes_all_tokens_once(pool, normal):
    quantized = QuantAttentionPool.from_float(pool)
    quantized.attach_inputs("pool", QuantSpec(8), QuantSpec(8))
    assert quantized.context_quantizer is None
    quantized.input_quantizer.set_mode(Mode.OBSERVE)
    x = normal(BATCH, DIM, 4, 4)
    quantized(x)
    assert quantized.input_quantizer.fired == 1
    tokens = torch.cat([x.mean((2, 3))[:, :, None], x.flatten(2)], dim=2)
    seen = quantized.input_quantizer.stats().max_val
    assert seen == (tokens.mT + pool.positional_embedding).max()


@pytest.mark.parametrize("context", [DIM, 8])
def test_pooler_is_cross_attention_and_comes_back(fill, normal, context):
    pooler = fill(AttentionalPooler(DIM, context, n_head=HEADS, n_queries=4))
    x, before = normal(BATCH, LENGTH, context), state_of(pooler)
    expected = pooler(x)
    assert swap_pooler(pooler) is pooler
    assert type(pooler) is AttentionalPooler
    attn = pooler.attn
    assert isinstance(attn, QuantMultiheadAttention)
    assert attn.cross
    torch.testing.assert_close(pooler(x), expected, rtol=1e-5, atol=1e-5)

    attn.attach_inputs("attn", QuantSpec(8), QuantSpec(8))
    for point in list_points(pooler):
        point.set_mode(Mode.OBSERVE)
    pooler(x)
    assert [str(point.point) for point in list_points(pooler)] == ["attn:input", "attn:context"]
    assert attn.context_quantizer.point == PointId("attn", "context")
    assert attn.context_quantizer.stats().max_val == pooler.ln_k(x).max()
    assert attn.input_quantizer.stats().max_val == pooler.ln_q(pooler.query).max()

    restore(pooler)
    assert type(pooler.attn) is nn.MultiheadAttention
    assert_same_state(pooler, before)
    assert torch.equal(pooler(x), expected)
