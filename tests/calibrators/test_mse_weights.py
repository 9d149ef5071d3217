# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The least squared error of weights: never above min-max, near an exhaustive search."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from calibrators import mse
from calibrators.minmax import MinMax
from calibrators.mse import Mse
from qkit.numerics import qparams_from_range
from qkit.observers import weight_stats
from qkit.spec import Granularity, QuantSpec, Range

values = st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, 1e-12, -60.0, 1e9, -1e-30])
rows = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=values)


def rounded(weight, range_, spec):
    """The weight as torch's own fake quantization represents it."""
    scale, zero_point = qparams_from_range(range_, spec)
    scale, zero_point = (t.reshape(-1).expand(len(weight)) for t in (scale, zero_point))
    low, high = spec.quant_min, spec.quant_max
    return torch.fake_quantize_per_channel_affine(weight, scale, zero_point, 0, low, high)


def errors(weight, range_, spec):
    """Summed squared error of every channel, or of the whole tensor."""
    off = (rounded(weight, range_, spec).double() - weight.double()).square()
    return off.sum() if spec.granularity is Granularity.TENSOR else off.sum(dim=1)


def chosen(calibrator, weight, spec):
    return calibrator.choose_range(weight_stats(weight, spec.granularity), spec)


@settings(deadline=None, max_examples=150)
@given(
    rows=rows,
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    granularity=st.sampled_from([Granularity.TENSOR, Granularity.CHANNEL]),
)
@example(np.zeros((2, 3), np.float32), 4, True, Granularity.CHANNEL)
@example(np.array([[0, 0], [1e9, 1]], np.float32), 2, True, Granularity.CHANNEL)
def test_never_worse_than_min_max(rows, bits, symmetric, granularity):
    weight = torch.from_numpy(rows)
    spec = QuantSpec(bits, symmetric, granularity)
    best, full = (errors(weight, chosen(c, weight, spec), spec) for c in (Mse(), MinMax()))
    assert best.shape == full.shape
    assert bool((best <= full * (1 + 1e-5) + 1e-30).all())


def realistic(kind, channels=8, elements=400):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(channels, elements, generator=generator) * 0.02
    if kind == "heavy tails":
        return weight * torch.rand(channels, elements, generator=generator).clamp(min=0.02) ** -0.6
    if kind == "outliers":
        weight[:, ::97] *= 8
    return weight


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "outliers"])
@pytest.mark.parametrize("bits", [3, 4])
def test_within_one_percent_of_an_exhaustive_search(kind, bits):
    weight = realistic(kind)
    spec = QuantSpec(bits, symmetric=True, granularity=Granularity.CHANNEL)
    low, high = chosen(MinMax(), weight, spec)
    factors = torch.linspace(0.1, 1.0, 800)
    dense = torch.stack([errors(weight, Range(low * f, high * f), spec) for f in factors])
    found = errors(weight, chosen(Mse(), weight, spec), spec)
    assert bool((found <= 1.01 * dense.amin(dim=0)).all())


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "outliers"])
def test_four_bits_gain_much_over_min_max(kind):
    weight = realistic(kind)
    spec = QuantSpec(4, symmetric=True, granularity=Granularity.CHANNEL)
    best, full = (errors(weight, chosen(c, weight, spec), spec).sum() for c in (Mse(), MinMax()))
    assert best < 0.85 * full


def test_channels_do_not_see_each_other(monkeypatch):
    """Searched a few at a time or all at once, alone or together: the same range."""
    weight = realistic("outliers")
    spec = QuantSpec(4, symmetric=True, granularity=Granularity.CHANNEL)
    together = chosen(Mse(), weight, spec)
    monkeypatch.setattr(mse, "CHUNK", 3 * weight.shape[1])
    monkeypatch.setattr(mse, "MEMORY", 1)
    for i in (0, 2, 3, 7):
        alone = chosen(Mse(), weight[i : i + 1], spec)
        assert torch.equal(alone.max, together.max[i : i + 1])
    assert all(map(torch.equal, chosen(Mse(), weight, spec), together))


def test_more_steps_and_a_lower_end_find_what_a_coarse_search_misses():
    weight = torch.full((1, 40_000), 0.01)
    weight[:, ::2] *= -1
    weight[0, 0] = 1.0
    spec = QuantSpec(2, symmetric=True, granularity=Granularity.CHANNEL)
    few, many = (
        errors(weight, chosen(c, weight, spec), spec)
        for c in (Mse(steps=2, least_weight=0.9), Mse(steps=64, least_weight=0.01))
    )
    assert many < few


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"steps": 1}, "steps = 1"),
        ({"steps": -3}, "steps = -3"),
        ({"least_weight": 0.0}, r"\(0.0, 0.01\)"),
        ({"least_weight": 1.0}, r"\(1.0, 0.01\)"),
        ({"least_activation": -0.1}, r"\(0.2, -0.1\)"),
        ({"least_activation": 1.5}, r"\(0.2, 1.5\)"),
        ({"least_activation": float("nan")}, r"\(0.2, nan\)"),
    ],
)
def test_impossible_options(options, fact):
    with pytest.raises(ValueError, match=rf"{fact}.*: use steps >= 2, 0 < least_\* < 1"):
        Mse(**options)
