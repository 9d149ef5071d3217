# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The low-bit adapter: the formula, the rounding while it learns, the integers afterwards."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from qkit.artifact.tensors import from_tensors, to_tensors
from qkit.calibration.observe import set_mode
from qkit.nn.tensor_quantizer import Mode
from qkit.p4q.adapter import QuantAdapter, new_adapter

WIDTH = 32


@pytest.fixture
def features(normal):
    return 3 * normal(5, WIDTH)


def by_hand(adapter, z):
    """The formula of the paper's code, in float."""
    down, up = adapter.down, adapter.up
    inner = F.relu(z @ down.weight.T + down.bias) @ up.weight.T + up.bias
    return 0.2 * inner + 0.8 * z


def round_rows(x, low, high, scale, zero=0.0):
    return ((x / scale + zero).round().clamp(low, high) - zero) * scale


def rounded_by_hand(adapter, z, bits):
    """The formula with both weights and both inputs rounded, written out."""
    most = 2 ** (bits - 1) - 1

    def weight(w):
        return round_rows(w, -most - 1, most, w.abs().amax(1, keepdim=True) / most)

    def token(x):
        low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
        scale = (high - low) / (2**bits - 1)
        return round_rows(x, 0, 2**bits - 1, scale, -(low / scale).round())

    down, up = adapter.down, adapter.up
    inner = F.relu(token(z) @ weight(down.weight).T + down.bias)
    return 0.2 * (token(inner) @ weight(up.weight).T + up.bias) + 0.8 * z


def test_in_float_it_is_the_formula(features):
    adapter = new_adapter(WIDTH, 4, 0.2, None, seed=0)
    torch.testing.assert_close(adapter(features), by_hand(adapter, features))
    assert sum(p.numel() for p in adapter.parameters()) == 2 * WIDTH * 8 + 8 + WIDTH


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("training", [True, False])
def test_rounded_it_is_the_formula_rounded(features, bits, training):
    adapter = new_adapter(WIDTH, 4, 0.2, bits, seed=0).train(training)
    with torch.no_grad():
        found = adapter(features)
        torch.testing.assert_close(found, rounded_by_hand(adapter, features, bits))
        assert not torch.allclose(found, by_hand(adapter, features), atol=1e-6)


def test_more_bits_are_nearer_to_float(features):
    def error(bits):
        adapter = new_adapter(WIDTH, 4, 0.2, bits, seed=0)
        with torch.no_grad():
            return float((adapter(features) - by_hand(adapter, features)).norm())

    assert error(8) < error(6) < error(4) < error(2)


@pytest.mark.parametrize(("bits", "near"), [(4, 0.9), (8, 0.999)])
def test_every_weight_gets_a_gradient_through_the_rounding(features, bits, near):
    adapter = new_adapter(WIDTH, 4, 0.2, bits, seed=0).train()
    rounded = adapter(features)
    rounded.square().sum().backward()
    exact = new_adapter(WIDTH, 4, 0.2, None, seed=0)
    exact(features).square().sum().backward()
    for mine, wanted in zip(adapter.parameters(), exact.parameters(), strict=True):
        assert F.cosine_similarity(mine.grad.flatten(), wanted.grad.flatten(), dim=0) > near
    largest = adapter.down.weight.abs().argmax(dim=1)
    active = exact.down.weight.grad.abs().sum(dim=1) > 0
    assert (adapter.down.weight.grad[range(8), largest][active] != 0).all()


def test_scales_follow_a_weight_that_grows(features):
    adapter = new_adapter(WIDTH, 4, 0.2, 8, seed=0).train()
    with torch.no_grad():
        adapter.down.weight.mul_(4)
        torch.testing.assert_close(adapter(features), rounded_by_hand(adapter, features, 8))


@given(bits=st.sampled_from([2, 4, 8]), seed=st.integers(0, 2**16))
def test_frozen_and_stored_as_integers_it_comes_back_bit_for_bit(bits, seed):
    adapter = new_adapter(WIDTH, 4, 0.5, bits, seed)
    features = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        adapter.up.weight.mul_(1.5)  # as a last step of training
    adapter.freeze()
    scale = adapter.up.weight_quantizer.qparams.scale
    torch.testing.assert_close(scale, adapter.up.weight.abs().amax(1) / (2 ** (bits - 1) - 1))
    stored = to_tensors(adapter, adapter.layers)
    packed = {name for name in stored if name.endswith("packed")}
    assert packed == {"down.weight.packed", "up.weight.packed"}
    assert stored["up.weight.packed"].numel() == WIDTH * 8 * bits // 8
    again = QuantAdapter(WIDTH, 8, 0.5, bits)
    from_tensors(again, again.layers, stored)
    again.eval()
    with torch.no_grad():
        assert torch.equal(again(features), adapter(features))
    assert not any(p.requires_grad for p in adapter.parameters())


def test_the_float_model_has_no_adapter(features):
    adapter = new_adapter(WIDTH, 4, 0.2, 8, seed=0)
    set_mode(adapter, Mode.OFF)
    assert torch.equal(adapter(features), features)
    set_mode(adapter, Mode.QUANTIZE)
    assert not torch.equal(adapter(features), features)


def test_behind_a_tower_it_changes_the_feature_and_nothing_else(features):
    adapter = new_adapter(WIDTH, 4, 0.2, 8, seed=0).eval()
    tokens = torch.ones(5, 2)
    with torch.no_grad():
        assert torch.equal(adapter.after(adapter, (), features), adapter(features))
        found = adapter.after(adapter, (), (features, tokens))
        assert torch.equal(found[0], adapter(features))
    assert found[1] is tokens


def test_a_seed_is_a_start_and_chance_goes_on_as_if_nothing_was():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, second, other = (new_adapter(WIDTH, 4, 0.2, 8, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.up.weight, second.up.weight)
    assert not torch.equal(first.up.weight, other.up.weight)
