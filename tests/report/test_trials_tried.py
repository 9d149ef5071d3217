# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Which changes are tried on which layer, which of them help, and that the layer is as before."""

import pytest
import torch

from qkit.nn.conv import QuantConv2d
from qkit.nn.embedding import QuantEmbedding
from qkit.nn.linear import QuantLinear
from qkit.nn.tensor_quantizer import Mode
from qkit.report.trials import try_weighted
from qkit.spec import Granularity, QuantSpec, Range

TENSOR, CHANNEL, TOKEN = Granularity
FOUR = QuantSpec(4)
ROWS, EIGHT = (QuantSpec(bits, True, CHANNEL) for bits in (4, 8))
PARTS = {"now", "weight float", "input float"}
OF_INPUT = {"input at 8 bits", "input per token", "input full range", "input least error"}
OF_WEIGHT = {"weight at 8 bits", "weight least error"}


def gain(found, name):
    return 10 * torch.log10(torch.tensor(found["now"] / found[name])).item()


@pytest.fixture
def x(normal):
    return normal(3, 9, 16) * torch.linspace(0.5, 2, 16) + 0.3


def test_an_outlier_channel_is_mended_by_smoothing_and_by_bits(tried, x):
    x[..., 3] *= 20
    _, found = tried(x, EIGHT, FOUR, share=1.0)
    assert gain(found, "channels smoothed") > 6
    assert gain(found, "input at 8 bits") > 15
    assert gain(found, "input float") > 20
    assert gain(found, "weight float") == pytest.approx(0.0, abs=0.2)


def test_an_outlier_token_is_mended_by_a_scale_a_token(tried, x):
    x[1, 4] *= 20
    _, found = tried(x, EIGHT, FOUR, share=1.0)
    assert gain(found, "input per token") > 10 > 5 > gain(found, "channels smoothed")
    assert gain(found, "input full range") == pytest.approx(0.0, abs=1e-4)


def test_rare_values_are_mended_by_clipping_them(tried, normal):
    x = normal(16, 128, 16)
    x[0, 0, 0], x[0, 0, 1] = 30.0, -22.0
    _, found = tried(x, EIGHT, FOUR, share=1.0)
    assert gain(found, "input least error") > 5
    assert gain(found, "input full range") == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(
    ("weight", "input_", "names"),
    [
        (ROWS, FOUR, {*PARTS, *OF_INPUT, *OF_WEIGHT, "channels smoothed"}),
        (ROWS, QuantSpec(4, False, CHANNEL), {*PARTS, *OF_INPUT, *OF_WEIGHT}),
        (ROWS, QuantSpec(4, False, TOKEN), {*PARTS, *OF_WEIGHT, "input at 8 bits"}),
        (QuantSpec(4, True), FOUR, {*PARTS, *OF_INPUT, *OF_WEIGHT, "channels smoothed"}),
        (ROWS, None, {"now", *OF_WEIGHT}),
        (None, FOUR, {"now", *OF_INPUT}),
        (QuantSpec(6, True, CHANNEL), QuantSpec(2), {*PARTS, *OF_INPUT, "channels smoothed"}),
        (QuantSpec(2, True, CHANNEL), QuantSpec(8), {*PARTS, *OF_WEIGHT}),
    ],
    ids=["both", "channels", "tokens", "one weight scale", "weight", "input", "2 in", "2 weight"],
)
def test_only_what_applies_and_matters_is_tried(tried, x, weight, input_, names):
    _, found = tried(x, weight, input_)
    extra = {"weight per channel"} if weight == QuantSpec(4, True) else set()
    assert set(found) == names | extra


def test_at_eight_bits_no_more_bits_are_offered(tried, x):
    _, found = tried(x, EIGHT, QuantSpec(8))
    assert not any(" at " in name for name in found)


def test_a_convolution_has_no_tokens_and_is_not_smoothed(calibrated, normal):
    x, module = normal(2, 3, 8, 8), QuantConv2d(3, 12, 4, stride=4)
    layer = calibrated(module, "conv", x)
    found = try_weighted(layer, x, module(x), Range(x.amin((0, 2, 3)), x.amax((0, 2, 3))))
    assert set(found) == {*PARTS, *OF_INPUT, *OF_WEIGHT} - {"input per token"}


def test_an_embedding_has_only_its_table(calibrated):
    tokens, module = torch.tensor([[1, 5, 5], [0, 2, 9]]), QuantEmbedding(20, 16)
    layer = calibrated(module, "embedding", tokens, input_=None)
    assert set(try_weighted(layer, tokens, module(tokens), None)) == {"now", *OF_WEIGHT}


@pytest.mark.parametrize("mode", list(Mode))
def test_trials_leave_the_layer_as_it_was(calibrated, x, mode):
    layer = calibrated(QuantLinear(16, 12), "linear", x)
    module, given = layer.module, x.clone()
    output, reach = module(x), Range(x.amin((0, 1)), x.amax((0, 1)))
    state = {name: value.clone() for name, value in module.state_dict().items()}
    for number, point in enumerate(layer.points):
        point.mode, point.fired = mode, 40 + number
    versions = [point.version for point in layer.points]
    try_weighted(layer, x, output, reach)
    assert [point.mode for point in layer.points] == [mode, mode]
    assert [point.fired for point in layer.points] == [40, 41]
    assert [point.version for point in layer.points] == versions
    assert module.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert torch.equal(x, given)
