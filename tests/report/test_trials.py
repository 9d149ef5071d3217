# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What each change to a layer would do, against the same change made by hand."""

import pytest
import torch
import torch.nn.functional as F

import qkit.report.trials
from qkit.nn.conv import QuantConv2d
from qkit.nn.embedding import QuantEmbedding
from qkit.report.trials import SHRINKS, try_weighted
from qkit.spec import QuantSpec, Range


@pytest.fixture
def x(normal):
    return normal(3, 9, 16) * torch.linspace(0.5, 2, 16) + 0.3


def affine(x, low, high, bits):
    """Rounded by torch to unsigned integers between two ends, zero among them."""
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    scale = (high - low) / (2**bits - 1)
    return torch.fake_quantize_per_tensor_affine(x, scale, round(-low / scale), 0, 2**bits - 1)


def symmetric(rows, reach, bits):
    """Rows rounded by torch to signed integers up to the reach of each."""
    scale, half = reach.flatten() / ((2**bits - 1) / 2), 2 ** (bits - 1)
    zeros = torch.zeros(len(rows), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(rows, scale, zeros, 0, -half, half - 1)


def far(rows):
    return rows.abs().amax(dim=1, keepdim=True)


@pytest.mark.parametrize(
    "name",
    [
        *("now", "weight float", "input float", "input per token", "input full range"),
        *("input at 8 bits", "weight at 8 bits"),
    ],
)
def test_a_change_does_what_its_name_says(tried, x, name):
    layer, found = tried(x)
    weight = layer.module.weight
    by_token = [affine(token, token.min(), token.max(), 4) for token in x.flatten(0, 1)]
    inputs = {
        "input float": x,
        "input per token": torch.stack(by_token).view_as(x),
        "input full range": affine(x, x.min(), x.max(), 4),
        "input at 8 bits": affine(x, x.min(), x.max(), 8),
    }
    weights = {"weight float": weight, "weight at 8 bits": symmetric(weight, far(weight), 8)}
    now_x = affine(x, 0.8 * x.min(), 0.8 * x.max(), 4)
    now_weight = symmetric(weight, far(weight), 4)
    output = F.linear(inputs.get(name, now_x), weights.get(name, now_weight), layer.module.bias)
    noise = (output - layer.module(x)).square().sum().item()
    assert found[name] == pytest.approx(noise, rel=1e-3)
    assert found["now"] > 0


def test_one_weight_scale_a_channel_for_a_weight_with_one(tried, x):
    layer, found = tried(x, QuantSpec(4, True))
    weight = symmetric(layer.module.weight, far(layer.module.weight), 4)
    rounded = affine(x, 0.8 * x.min(), 0.8 * x.max(), 4)
    noise = (F.linear(rounded, weight, layer.module.bias) - layer.module(x)).square().sum().item()
    assert found["weight per channel"] == pytest.approx(noise, rel=1e-3)


def test_the_least_error_range_is_the_best_of_all_tried(tried, normal):
    x = normal(16, 128, 16)
    x[0, 0, 0], x[0, 0, 1] = 30.0, -22.0
    layer, found = tried(x)
    part = x.flatten(0, 1)[::4]
    tries = [(s, affine(part, s * x.min(), s * x.max(), 4)) for s in SHRINKS]
    best, _ = min(tries, key=lambda t: (t[1] - part).square().sum().item())
    rounded = affine(x, best * x.min(), best * x.max(), 4)
    weight = symmetric(layer.module.weight, far(layer.module.weight), 4)
    noise = (F.linear(rounded, weight, layer.module.bias) - layer.module(x)).square().sum().item()
    assert best < 0.5
    assert found["input least error"] == pytest.approx(noise, rel=1e-3)


def test_the_weight_s_least_error_ranges_are_the_best_of_each_channel(tried, x):
    layer, found = tried(x)
    weight = layer.module.weight
    rows = []
    for row in weight.split(1):
        some, errors = row[:, ::4], []
        for shrink in SHRINKS:
            rounded = symmetric(some, shrink * far(row), 4)
            errors.append((rounded - some).square().sum().item())
        rows.append(symmetric(row, SHRINKS[errors.index(min(errors))] * far(row), 4))
    rounded = affine(x, 0.8 * x.min(), 0.8 * x.max(), 4)
    output = F.linear(rounded, torch.cat(rows), layer.module.bias)
    noise = (output - layer.module(x)).square().sum().item()
    assert found["weight least error"] == pytest.approx(noise, rel=1e-3)


def test_smoothing_moves_scales_from_input_to_weight(tried, x):
    layer, found = tried(x)
    weight, flat = layer.module.weight, x.flatten(0, 1)
    factor = (flat.abs().amax(0) / weight.abs().amax(0)).sqrt()
    smooth, scaled = x / factor, weight * factor
    assert torch.allclose(smooth @ scaled.T, x @ weight.T, atol=1e-4)
    rounded = affine(smooth, smooth.min(), smooth.max(), 4), symmetric(scaled, far(scaled), 4)
    noise = (F.linear(*rounded, layer.module.bias) - layer.module(x)).square().sum().item()
    assert found["channels smoothed"] == pytest.approx(noise, rel=1e-3)


def test_smoothing_by_itself_changes_nothing(tried, x, monkeypatch):
    monkeypatch.setattr(qkit.report.trials, "_round", lambda x, *grid: x)
    _, found = tried(x)
    assert found["channels smoothed"] < 1e-9 * found["now"]


def test_a_convolution_s_input_is_rounded_as_a_whole(calibrated, normal):
    x, module = normal(2, 3, 8, 8), QuantConv2d(3, 12, 4, stride=4)
    layer = calibrated(module, "conv", x)
    reach = Range(x.amin((0, 2, 3)), x.amax((0, 2, 3)))
    found = try_weighted(layer, x, module(x), reach)
    rows = module.weight.flatten(1)
    rounded_weight = symmetric(rows, far(rows), 4).view_as(module.weight)
    for name, share, weight in (
        ("weight float", 0.8, module.weight),
        ("input full range", 1.0, rounded_weight),
    ):
        rounded = affine(x, share * x.min(), share * x.max(), 4)
        noise = (F.conv2d(rounded, weight, module.bias, stride=4) - module(x)).square().sum()
        assert found[name] == pytest.approx(noise.item(), rel=1e-3)


def test_an_embedding_s_error_is_that_of_the_rows_used(calibrated):
    tokens, module = torch.tensor([[1, 5, 5], [0, 2, 9]]), QuantEmbedding(20, 16)
    layer = calibrated(module, "embedding", tokens, input_=None)
    found = try_weighted(layer, tokens, module(tokens), None)
    for name, bits in (("now", 4), ("weight at 8 bits", 8)):
        off = symmetric(module.weight, far(module.weight), bits) - module.weight
        assert found[name] == pytest.approx(off[tokens].square().sum().item(), rel=1e-3)
