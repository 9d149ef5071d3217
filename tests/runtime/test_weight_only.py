# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``runtime="int4"``: weights packed to 4 bits under float inputs."""

import copy
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import qkit
from qkit.errors import QkitWarning
from qkit.nn.integers import IntegerWeight
from qkit.nn.layer import QuantLayer
from qkit.nn.operand import Operand
from qkit.recipe import Recipe, SchemeRule
from qkit.runtime.kernels import missing_kernel
from qkit.runtime.modules import IntAttention, IntEmbedding, IntLinear, IntMlp, IntPatches
from qkit.runtime.weight_only import CudaPackedProduct, PackedProduct, _laid_out
from qkit.spec import Granularity, GridKind, QuantSpec, Scheme
from tests.runtime.conftest import int8

PER_CHANNEL = {"symmetric": True, "granularity": Granularity.CHANNEL}
FOUR = QuantSpec(4, **PER_CHANNEL)


@pytest.fixture(autouse=True)
def _kernels():
    if (missing := missing_kernel(PackedProduct)) is not None:
        pytest.skip(missing)


def numbers(rows, inner, outer):
    generator = torch.Generator().manual_seed(rows + inner * outer)
    values = torch.randint(-8, 8, (outer, inner), dtype=torch.int8, generator=generator)
    scale = torch.rand(outer, generator=generator) / 100 + 1e-3
    bias = torch.randn(outer, generator=generator)
    return torch.randn(rows, inner, generator=generator), IntegerWeight(values, scale), bias


@given(st.integers(1, 40), st.integers(1, 600), st.integers(1, 40), st.booleans())
def test_any_size_gives_the_product_of_what_the_integers_stand_for(rows, inner, outer, biased):
    x, weight, bias = numbers(rows, inner, outer)
    found = PackedProduct(weight, bias if biased else None)(Operand(x, 1.0, 0))
    expected = (x.double() @ weight.values.T.double()) * weight.scale.double()
    expected = expected + bias.double() if biased else expected
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_it_holds_half_a_byte_a_weight():
    product = PackedProduct(*numbers(1, 767, 64)[1:])
    assert product.packed.nbytes == 768 * 64 // 2


@pytest.mark.parametrize(("value", "fits"), [(-9, False), (-8, True), (7, True), (8, False)])
def test_weights_of_more_than_4_bits_are_refused(value, fits):
    values = torch.zeros(3, 5, dtype=torch.int8)
    values[1, 2] = value
    reason = PackedProduct.unfit(IntegerWeight(values, torch.ones(3)))
    assert (reason is None) == fits
    assert fits or f"{min(value, 0)} to {max(value, 0)}" in reason


@pytest.mark.parametrize("which", [PackedProduct, CudaPackedProduct])
def test_another_device_gets_everything(which):
    x, weight, bias = numbers(3, 70, 20)
    moved = which(weight, bias).moved(lambda tensor: tensor.to("meta"))
    assert all(tensor.is_meta for tensor in (moved.packed, moved.scale, moved.bias))
    assert moved(Operand(x.to("meta"), 1.0, 0)).shape == (3, 20)


def test_layouts_of_the_cuda_kernel(monkeypatch):
    """By hand: pairs of neighbours, the even one above, and groups of a size that it knows."""
    packed = []
    monkeypatch.setattr(
        torch, "_convert_weight_to_int4pack", lambda pairs, tiles: packed.append((pairs, tiles))
    )
    _, units = _laid_out(torch.arange(-8.0, 8.0).repeat(3, 5))
    pairs, tiles = packed[0]
    assert (pairs.shape, units.shape, tiles) == ((8, 48), (3, 8, 2), 2)  # 80 inputs are 3 times 32
    assert pairs[0, :8].tolist() == [16 * even + even + 1 for even in range(0, 16, 2)]
    assert pairs[0, 40:].unique().tolist() == pairs[3:].unique().tolist() == [8 * 16 + 8]  # zeros
    assert units[..., 0].unique().item() == 1
    assert units[..., 1].unique().item() == 0


def saved(save_run, *rules):
    return save_run(bits=None, recipe=Recipe(rules), overrides=qkit.Overrides(samples=4))


def features(model, pixels, tokens):
    with torch.no_grad():
        return model.encode_image(pixels), model.encode_text(tokens)


def agree(first, second):
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def run(save_run):
    """A run folder whose weights have 4 bits and whose inputs stay in float."""
    return saved(save_run, SchemeRule("*", scheme=Scheme(FOUR, None)))


def test_features_are_those_of_the_simulated_model(run, pixels, tokens):
    found = features(int8(run, "int4").model, pixels, tokens)
    agree(found, features(qkit.load(run).model, pixels, tokens))


def test_all_weights_stay_packed(run):
    loaded = int8(run, "int4")
    kinds = [type(module) for module in loaded.model.modules()]
    wanted = {IntAttention: 4, IntMlp: 4, IntLinear: 14, IntPatches: 1, IntEmbedding: 1}
    assert {kind: kinds.count(kind) for kind in wanted} == wanted
    assert not [module for module in loaded.model.modules() if isinstance(module, QuantLayer)]
    assert {f.layer.rpartition(".")[2] for f in loaded.runtime.fallbacks} == {"sdpa"}
    assert loaded.runtime.kernel == "float products of unpacked 4-bit weights"


def test_a_copy_computes_the_same(run, pixels, tokens):
    model = int8(run, "int4").model
    found = features(copy.deepcopy(model).to("cpu"), pixels, tokens)
    assert all(map(torch.equal, found, features(model, pixels, tokens)))


ODD = {
    "its input is rounded; runtime='int8' multiplies": Scheme(FOUR, QuantSpec(8)),
    "its weight takes integers from": Scheme(QuantSpec(8, **PER_CHANNEL), None),
    "not -8 to 7": Scheme(QuantSpec(4, grid=GridKind.NORMAL, **PER_CHANNEL), None),
}


@pytest.mark.parametrize("reason", ODD)
def test_layers_it_cannot_pack_compute_as_before_and_are_named(save_run, pixels, tokens, reason):
    some = SchemeRule(r"re:.*resblocks\.0\.mlp\.c_fc", scheme=ODD[reason])
    path = saved(save_run, some, SchemeRule("*", scheme=Scheme(FOUR, None)))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", QkitWarning)
        loaded = qkit.load(path, runtime="int4")
    assert reason in str(told[-1].message)
    named = [f for f in loaded.runtime.fallbacks if f.layer.endswith("c_fc")]
    assert [f.layer.split(".")[0] for f in named] == ["visual", "transformer"]
    assert all(reason in f.reason for f in named)
    agree(features(loaded.model, pixels, tokens), features(qkit.load(path).model, pixels, tokens))


@pytest.mark.gpu
def test_on_a_cuda_device(run, pixels, tokens):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QkitWarning)
        model = qkit.load(run, runtime="int4", device="cuda").model
    found = [f.cpu() for f in features(model, pixels.cuda(), tokens.cuda())]
    for a, b in zip(found, features(qkit.load(run).model, pixels, tokens), strict=True):
        assert float(torch.cosine_similarity(a, b).min()) >= 0.9995  # sums in bfloat16
