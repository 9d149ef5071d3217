# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The least squared error of activations, which are known by their histogram only."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrators.minmax import MinMax
from calibrators.mse import Mse, histogram_error
from qkit.numerics import fake_quantize, make_grid, qparams_from_range
from qkit.observers import make_observer, read_stats
from qkit.spec import Granularity, QuantSpec, Range

KINDS = ["normal", "laplace", "relu", "gelu", "outliers", "heavy tails", "uniform", "softmax"]


def activation(kind, seed=0, shape=(600, 16)):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    uniform = torch.rand(shape, generator=generator)
    if kind == "outliers":
        x[:, 3] = x[:, 3] * 3 + 60
        x[0, 0] = -90
        return x
    return {
        "normal": x,
        "laplace": torch.sign(uniform - 0.5) * -torch.log(1 - 2 * (uniform - 0.5).abs() + 1e-7),
        "relu": F.relu(x),
        "gelu": F.gelu(2 * x),
        "heavy tails": x * uniform.clamp(min=0.01) ** -0.7,
        "uniform": uniform,
        "softmax": (3 * x).softmax(dim=-1),
    }[kind]


def observed(x, spec):
    observer = make_observer(spec, axis=-1)
    for batch in x.split(-(-len(x) // 3)):
        observer(batch)
    return read_stats(observer)


def true_error(x, range_, spec):
    """Mean squared error on the data themselves, ``()`` or one a channel."""
    grid = make_grid(qparams_from_range(range_, spec), spec, -1, x.ndim)
    off = (fake_quantize(x, grid).double() - x.double()).square()
    return off.mean() if spec.granularity is Granularity.TENSOR else off.mean(dim=0)


def estimate(stats, range_, spec):
    error = histogram_error(stats.histogram, spec)
    return error(range_.min.reshape(1, -1), range_.max.reshape(1, -1))[0]


def both(stats, spec):
    return Mse().choose_range(stats, spec), MinMax().choose_range(stats, spec)


specs = st.builds(
    QuantSpec,
    st.integers(2, 8),
    st.booleans(),
    st.sampled_from([Granularity.TENSOR, Granularity.CHANNEL]),
)


@settings(deadline=None, max_examples=50)
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 99),
    spec=specs,
    scale=st.sampled_from([1e-4, 1.0, 1e4]),
    shift=st.floats(-3, 3),
)
def test_on_its_histogram_never_worse_than_min_max(kind, seed, spec, scale, shift):
    stats = observed((activation(kind, seed, (60, 4)) + shift) * scale, spec)
    best, full = (estimate(stats, range_, spec) for range_ in both(stats, spec))
    assert bool((best <= full * (1 + 1e-5)).all())


@pytest.mark.parametrize("granularity", [Granularity.TENSOR, Granularity.CHANNEL])
@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_on_real_data_never_much_worse_than_min_max(kind, bits, granularity):
    for symmetric in (False, True):
        spec = QuantSpec(bits, symmetric, granularity)
        x = activation(kind)
        best, full = (true_error(x, range_, spec) for range_ in both(observed(x, spec), spec))
        assert bool((best <= 1.02 * full).all())


@pytest.mark.parametrize("kind", KINDS)
def test_many_samples_a_channel_at_eight_bits(kind):
    """A channel's bins must be finer than an 8-bit step, or the search follows noise."""
    spec = QuantSpec(8, granularity=Granularity.CHANNEL)
    for seed in range(3):
        x = activation(kind, seed, (3000, 8))
        best, full = (true_error(x, range_, spec) for range_ in both(observed(x, spec), spec))
        assert bool((best <= 1.05 * full).all())


@pytest.mark.parametrize("kind", ["normal", "laplace", "gelu", "relu", "outliers", "heavy tails"])
def test_within_one_percent_of_an_exhaustive_search(kind):
    spec = QuantSpec(4)
    x = activation(kind)
    stats = observed(x, spec)
    low, high = MinMax().choose_range(stats, spec)
    factors = torch.linspace(0.02, 1.0, 250)
    dense = min(true_error(x, Range(low * f, high * f), spec) for f in factors)
    assert true_error(x, Mse().choose_range(stats, spec), spec) <= 1.01 * dense


def test_the_ends_move_apart_where_one_tail_is_long():
    spec = QuantSpec(4)
    x = activation("normal")
    x[0, 0] = 40.0
    stats = observed(x, spec)
    low, high = Mse().choose_range(stats, spec)
    assert high < 8
    assert low < -1.5


@pytest.mark.parametrize("kind", ["normal", "gelu", "heavy tails"])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_estimate_is_close_to_the_truth(kind, bits):
    spec = QuantSpec(bits)
    x = activation(kind)
    stats = observed(x, spec)
    for range_ in both(stats, spec):
        truth = true_error(x, range_, spec).item()
        assert estimate(stats, range_, spec).item() == pytest.approx(truth, rel=0.05)


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_range_has_the_shape_of_what_was_seen(symmetric):
    for granularity, shape in ((Granularity.TENSOR, ()), (Granularity.CHANNEL, (16,))):
        spec = QuantSpec(4, symmetric, granularity)
        low, high = Mse().choose_range(observed(activation("gelu"), spec), spec)
        assert low.shape == high.shape == shape
        assert bool((low <= high).all())
