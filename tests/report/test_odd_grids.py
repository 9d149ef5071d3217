# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a report says of grids that are not uniform, and what it tries in their place."""

import pytest
import torch
import torch.nn.functional as F

from qkit.graph.layers import Layer
from qkit.grids.codebook import codebook
from qkit.grids.fit import qparams_up_to
from qkit.nn.attention import QuantSDPA
from qkit.nn.linear import QuantLinear
from qkit.numerics import qparams_from_range
from qkit.observers import make_observer, read_stats, weight_stats
from qkit.report.ranges import tensor_reports
from qkit.report.sums import InputSums
from qkit.report.trials import try_attention, try_weighted
from qkit.spec import Granularity, GridKind, QuantSpec, Range, Scheme

SPEC = QuantSpec(4, grid=GridKind.SHIFTED_LOG)
WEIGHT = QuantSpec(8, symmetric=True, granularity=Granularity.CHANNEL)
HALF = 1.2  # upper end of the grid, of values up to 2.4


@pytest.fixture
def x(normal):
    x = F.gelu(normal(3, 40, 12))
    return x * (2 * HALF / x.max())


@pytest.fixture
def layer(x, normal):
    """A linear layer whose input has a shifted grid over half of its range."""
    module = QuantLinear(12, 6).requires_grad_(False)
    module.weight.data = normal(6, 12)
    module.attach("a", Scheme(WEIGHT, SPEC))
    stats = weight_stats(module.weight, WEIGHT.granularity)
    ends = Range(stats.min_val, stats.max_val)
    module.weight_quantizer.set_qparams(qparams_from_range(ends, WEIGHT))
    module.input_quantizer.set_qparams(qparams_up_to(torch.tensor(HALF), SPEC, 2))
    return Layer("a", "image", "linear", module)


@pytest.fixture
def point(layer):
    return layer.module.input_quantizer


def test_kind_and_ends_of_the_grid_are_told(layer, point, x):
    observer = make_observer(SPEC, -1)
    observer(x)
    own = layer.weight_quantizer.point
    seen = {own: weight_stats(layer.module.weight, WEIGHT.granularity)}
    weight, input_ = tensor_reports(layer, seen | {point.point: read_stats(observer)})
    assert (weight.grid, input_.grid) == ("uniform", "shifted-log")
    assert (input_.bits, input_.granularity, input_.symmetric) == (4, "tensor", False)
    assert (input_.grid_low, input_.grid_high) == pytest.approx((-0.17, HALF))
    assert input_.step is None
    reach = x.max().item() - x.min().item()
    assert input_.span == pytest.approx((HALF - x.min().item()) / reach, rel=1e-4)


def test_what_lies_beyond_the_outermost_values_is_clipped(point, x):
    sums = InputSums()
    sums.add_clipping(x, point)
    assert sums.clipped == int((x > HALF).sum() + (x < -0.17).sum()) > 0
    assert sums.values == x.numel()


def test_an_input_is_tried_on_uniform_grids(layer, x):
    output = layer.module.product(x, layer.module.weight)
    found = try_weighted(layer, x, output, Range(*torch.aminmax(x.flatten(0, 1), dim=0)))
    tried = {"input float", "input per token", "input uniform", "input at 8 bits"}
    assert {name for name in found if name.startswith("input")} == tried
    assert "channels smoothed" not in found
    rounded = codebook(layer.module.input_quantizer.qparams, SPEC).round(x)
    noise = F.linear(rounded - x, layer.module.weight).square().sum().item()
    assert found["weight float"] == pytest.approx(noise, rel=1e-3)
    low, high = x.min().item(), x.max().item()
    scale = (high - low) / 255
    fine = torch.fake_quantize_per_tensor_affine(x, scale, round(-low / scale), 0, 255)
    weight = layer.weight_quantizer.round(layer.module.weight)
    noise = F.linear(fine, weight, layer.module.bias) - output
    assert found["input at 8 bits"] == pytest.approx(noise.square().sum().item(), rel=1e-2)


def test_probabilities_are_tried_on_a_uniform_grid(normal):
    q, k, v = (2 * normal(2, 3, 6, 8) for _ in range(3))
    module, spec = QuantSDPA(), QuantSpec(2, grid=GridKind.LOG2)
    module.attach("a", QuantSpec(8), spec)
    for point in module.points()[:3]:
        point.set_qparams(
            qparams_from_range(Range(torch.tensor(-9.0), torch.tensor(9.0)), point.spec)
        )
    module.points()[3].set_qparams(qparams_up_to(torch.tensor(1.0), spec, 1))
    layer = Layer("a", "image", "attention", module)
    found = try_attention(layer, (q, k, v), module(q, k, v))
    helped = {name for name in found if name.startswith("probs")}
    assert helped == {"probs float", "probs at 8 bits", "probs per token", "probs uniform"}
    assert found["probs at 8 bits"] < found["probs uniform"]
