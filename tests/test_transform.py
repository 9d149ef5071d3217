# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A change of coordinates against dense matrices, and there and back again."""

from functools import reduce
from itertools import product
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qkit.numerics import fake_quantize, make_grid, token_qparams
from qkit.spec import Granularity, QuantSpec
from qkit.transform import Transform, kronecker

moderate = settings(deadline=None, max_examples=40)
PARTS = ("shift", "gain", "before", "after")
COMBINATIONS = [
    [part for part, there in zip(PARTS, chosen, strict=True) if there]
    for chosen in product([False, True], repeat=4)
]
STATIC, TOKEN = QuantSpec(4), QuantSpec(4, granularity=Granularity.TOKEN)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(*sizes, seed=0):
    """Random orthogonal factors, none of them symmetric."""
    return [torch.linalg.qr(randn(n, n, seed=seed + i)).Q for i, n in enumerate(sizes)]


def make(parts, before=(3, 4), after=(2, 3, 2), seed=0, **options):
    """A transform of ``parts``, with gains of both signs."""
    n = prod(before)
    gain = (randn(n, seed=seed) / 2).exp() * (randn(n, seed=seed + 1) > 0).double().mul(2).sub(1)
    every = {
        "shift": randn(n, seed=seed + 2),
        "gain": gain,
        "before": orthogonal(*before, seed=seed + 3),
        "after": orthogonal(*after, seed=seed + 9),
    }
    return Transform(**{part: every[part] for part in parts}, **options)


@st.composite
def cases(draw):
    """Some transform, the number of its channels, and a seed."""
    before = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    after = draw(st.permutations(before))
    seed = draw(st.integers(0, 2**20))
    return make(draw(st.sampled_from(COMBINATIONS)), before, after, seed), prod(before), seed


@moderate
@given(st.lists(st.integers(1, 4), max_size=3), st.integers(0, 2**20))
def test_kronecker_is_the_dense_product(sizes, seed):
    factors = [randn(n, n, seed=seed + i) for i, n in enumerate(sizes)]
    x = randn(2, 3, prod(sizes), seed=seed + 9)
    dense = reduce(torch.kron, factors) if factors else torch.eye(1, dtype=torch.float64)
    torch.testing.assert_close(kronecker(x, factors), x @ dense)
    torch.testing.assert_close(kronecker(x, factors, back=True), x @ dense.T)


@moderate
@given(cases())
def test_into_and_out_of_undo_each_other(case):
    transform, n, seed = case
    x = randn(2, 3, n, seed=seed)
    torch.testing.assert_close(transform.out_of(transform.into(x)), x)
    torch.testing.assert_close(transform.into(transform.out_of(x)), x)
    torch.testing.assert_close(transform.weight_out_of(transform.weight_into(x[0])), x[0])
    torch.testing.assert_close(transform.weight_into(transform.weight_out_of(x[0])), x[0])


@pytest.mark.parametrize("parts", COMBINATIONS, ids="-".join)
def test_a_product_is_the_same_in_any_coordinates(parts):
    transform, x, weight = make(parts), randn(5, 12, seed=20), randn(7, 12, seed=21)
    found = transform.into(x) @ transform.weight_into(weight).T
    if transform.shift is not None:
        found = found + weight @ transform.shift
    torch.testing.assert_close(found, x @ weight.T, rtol=1e-12, atol=1e-12)
    assert torch.equal(transform.into(x), x) == (not parts)


def test_the_order_is_shift_then_turn_then_gain_then_turn():
    transform, x, weight = make(PARTS), randn(5, 12, seed=20), randn(7, 12, seed=21)
    first, second = (reduce(torch.kron, transform.factors(side)) for side in ("before", "after"))
    torch.testing.assert_close(
        transform.into(x), ((x - transform.shift) @ first * transform.gain) @ second
    )
    torch.testing.assert_close(
        transform.weight_into(weight), (weight @ first / transform.gain) @ second
    )


def test_a_weight_of_more_axes_is_read_as_rows():
    transform, weight = make(PARTS), randn(5, 3, 2, 2)
    assert torch.equal(transform.weight_into(weight), transform.weight_into(weight.flatten(1)))


@pytest.mark.parametrize("parts", COMBINATIONS, ids="-".join)
def test_it_is_rebuilt_from_its_tensors(parts):
    transform, x = make(parts, clip=0.75), randn(5, 12)
    tensors = transform.tensors()
    twin = Transform.from_tensors(dict(reversed(tensors.items())))
    assert twin.clip == 0.75
    assert torch.equal(twin.into(x), transform.into(x))
    assert torch.equal(twin.weight_into(x), transform.weight_into(x))
    again = twin.tensors()
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("clip", [0.95, 0.9, 0.7])
def test_a_clip_that_was_stored_rounds_as_before(clip):
    twin, x = Transform.from_tensors(Transform(clip=clip).tensors()), randn(50, 12).float()
    first, second = (
        fake_quantize(x, make_grid(token_qparams(x, TOKEN, t), TOKEN)) for t in (clip, twin.clip)
    )
    assert torch.equal(first, second)
    assert twin.describe(TOKEN) == f"clipped {clip}"


@pytest.mark.parametrize("lost", ["clip", "before_0", "after_1"])
def test_a_lost_tensor_is_a_key_error(lost):
    tensors = make(PARTS).tensors()
    del tensors[lost]
    with pytest.raises(KeyError):
        Transform.from_tensors(tensors)


def test_it_follows_to_another_type():
    transform, x = make(PARTS).float(), randn(5, 12).float()
    assert {t.dtype for t in transform.state_dict().values()} == {torch.float32}
    assert transform.into(x).dtype == torch.float32


DESCRIBED = {
    "as it is": ((), 1.0, TOKEN),
    "centred": (("shift",), 1.0, TOKEN),
    "frequencies": (("before",), 1.0, STATIC),
    "scaled": (("gain",), 0.9, STATIC),
    "rotated": (("after",), 1.0, STATIC),
    "clipped 0.9": ((), 0.9, TOKEN),
    "centred, frequencies, scaled, rotated": (PARTS, 0.9, STATIC),
    "centred, frequencies, scaled, rotated, clipped 0.85": (PARTS, 0.85, TOKEN),
}


@pytest.mark.parametrize("words", DESCRIBED)
def test_it_says_what_it_does(words):
    parts, clip, spec = DESCRIBED[words]
    assert make(parts, clip=clip).describe(spec) == words
