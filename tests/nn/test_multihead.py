# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``nn.MultiheadAttention`` taken apart computes the same, and comes back exactly."""

import pytest
import torch
from torch import nn

from qkit.errors import ModelError
from qkit.nn.linear import QuantLinear
from qkit.nn.multihead import QuantMultiheadAttention

DIM, HEADS, BATCH, LENGTH, CONTEXT = 12, 3, 2, 5, 7
MASKS = {
    "none": lambda length: None,
    "bool": lambda length: torch.ones(LENGTH, length, dtype=torch.bool).triu(1),
    "float": lambda length: torch.linspace(-2, 2, LENGTH * length).reshape(LENGTH, length),
    "bool-3d": lambda length: (
        torch.arange(BATCH * HEADS * LENGTH * length).reshape(-1, LENGTH, length) % 3 == 1
    ),
    "float-3d": lambda length: torch.linspace(-3, 3, BATCH * HEADS * LENGTH * length).reshape(
        -1, LENGTH, length
    ),
}
KINDS = {
    "self": {},
    "bare": {"bias": False},
    "other-context": {"kdim": 8, "vdim": 8},
    "other-context-bare": {"kdim": 8, "vdim": 8, "bias": False},
}


def make(fill, kind, batch_first=True):
    module = nn.MultiheadAttention(DIM, HEADS, batch_first=batch_first, **KINDS[kind])
    return fill(module)


def inputs(normal, kind, batch_first):
    """Query, and the key that is also the value: the query itself for self-attention."""
    query = normal(BATCH, LENGTH, DIM) if batch_first else normal(LENGTH, BATCH, DIM)
    if "kdim" not in KINDS[kind]:
        return query, query
    return query, normal(BATCH, CONTEXT, 8) if batch_first else normal(CONTEXT, BATCH, 8)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_output_equals_that_of_torch(fill, normal, kind, mask, batch_first):
    module = make(fill, kind, batch_first)
    quantized = QuantMultiheadAttention.from_float(module)
    query, key = inputs(normal, kind, batch_first)
    attn_mask = MASKS[mask](key.shape[1 if batch_first else 0])
    expected, _ = module(query, key, key, need_weights=False, attn_mask=attn_mask)
    out, weights = quantized(query, key, key, need_weights=False, attn_mask=attn_mask)
    assert weights is None
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_key_of_equal_width_may_be_another_tensor(fill, normal):
    module = make(fill, "self")
    quantized = QuantMultiheadAttention.from_float(module, cross=True)
    query, key = normal(BATCH, LENGTH, DIM), normal(BATCH, CONTEXT, DIM)
    expected, _ = module(query, key, key, need_weights=False)
    out, _ = quantized(query, key, key, need_weights=False)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("requires_grad", [True, False])
def test_there_and_back(fill, kind, training, requires_grad):
    module = make(fill, kind, batch_first=False).train(training).requires_grad_(requires_grad)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    quantized = QuantMultiheadAttention.from_float(module)
    assert quantized.training is training
    assert {p.requires_grad for p in quantized.parameters()} == {requires_grad}
    back = quantized.to_float()
    assert type(back) is nn.MultiheadAttention
    assert repr(back) == repr(module)
    after = back.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert {p.requires_grad for p in back.parameters()} == {requires_grad}
    for name in ("num_heads", "dropout", "batch_first", "kdim", "vdim", "_qkv_same_embed_dim"):
        assert getattr(back, name) == getattr(module, name)
    assert back.training is training


@pytest.mark.parametrize("kind", ["self", "other-context"])
@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_weights_and_biases_are_frozen_apart(fill, kind, frozen):
    module = make(fill, kind)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(not name.endswith(frozen))
    expected = {name: p.requires_grad for name, p in module.named_parameters()}
    quantized = QuantMultiheadAttention.from_float(module)
    apart = {p.requires_grad for name, p in quantized.named_parameters() if name.endswith(frozen)}
    assert apart == {False}
    back = quantized.to_float()
    assert {name: p.requires_grad for name, p in back.named_parameters()} == expected


def test_different_widths_of_key_and_value_come_back(fill):
    module = fill(nn.MultiheadAttention(DIM, HEADS, kdim=8, vdim=6))
    back = QuantMultiheadAttention.from_float(module).to_float()
    assert {k: v.shape for k, v in back.state_dict().items()} == {
        k: v.shape for k, v in module.state_dict().items()
    }


def test_parts_are_layers_of_their_own(fill):
    module = make(fill, "self")
    quantized = QuantMultiheadAttention.from_float(module)
    parts = [quantized.q_proj, quantized.k_proj, quantized.v_proj]
    assert all(isinstance(part, QuantLinear) for part in [*parts, quantized.out_proj])
    assert torch.equal(torch.cat([p.weight for p in parts]), module.in_proj_weight)
    assert torch.equal(torch.cat([p.bias for p in parts]), module.in_proj_bias)
    assert quantized.out_proj.weight is module.out_proj.weight


def test_every_parameter_receives_its_gradient(fill, normal):
    module = make(fill, "self")
    x = normal(BATCH, LENGTH, DIM)
    module(x, x, x, need_weights=False)[0].square().sum().backward()
    expected = {name: p.grad.clone() for name, p in module.named_parameters()}
    module.zero_grad()
    quantized = QuantMultiheadAttention.from_float(module)
    quantized(x, x, x, need_weights=False)[0].square().sum().backward()
    parts = [quantized.q_proj, quantized.k_proj, quantized.v_proj]
    for name in ("weight", "bias"):
        joined = torch.cat([getattr(part, name).grad for part in parts])
        torch.testing.assert_close(joined, expected[f"in_proj_{name}"], rtol=1e-4, atol=1e-4)
        out = getattr(quantized.out_proj, name).grad
        torch.testing.assert_close(out, expected[f"out_proj.{name}"], rtol=1e-4, atol=1e-4)


def test_dropout_acts_in_training_only(fill, normal):
    module = fill(nn.MultiheadAttention(DIM, HEADS, dropout=0.9, batch_first=True))
    quantized = QuantMultiheadAttention.from_float(module)
    x = normal(BATCH, LENGTH, DIM)
    plain, again = (quantized(x, x, x, need_weights=False)[0] for _ in range(2))
    assert torch.equal(plain, again)
    torch.manual_seed(0)
    assert not torch.equal(quantized.train()(x, x, x, need_weights=False)[0], plain)


@pytest.mark.parametrize("ask", ["weights", "default", "padding", "value"])
def test_what_it_cannot_do_is_refused(fill, normal, ask):
    quantized = QuantMultiheadAttention.from_float(make(fill, "self"))
    x = normal(BATCH, LENGTH, DIM)
    options = {
        "weights": {"need_weights": True},
        "default": {},
        "padding": {"need_weights": False, "key_padding_mask": torch.zeros(BATCH, LENGTH)},
        "value": {"need_weights": False},
    }[ask]
    with pytest.raises(ModelError) as caught:
        quantized(x, x, x.clone() if ask == "value" else x, **options)
    assert str(caught.value) == (
        "quantized attention returns no weights, takes no key_padding_mask and needs value to be "
        "key. Call it with need_weights=False, as open_clip does."
    )


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_attention_with_tokens_of_its_own_is_refused(options):
    with pytest.raises(ModelError) as caught:
        QuantMultiheadAttention.from_float(nn.MultiheadAttention(DIM, HEADS, **options))
    assert str(caught.value) == (
        "attention with bias_k, bias_v or add_zero_attn cannot be taken apart. "
        "Leave it in float, or open an issue with the model's name."
    )
