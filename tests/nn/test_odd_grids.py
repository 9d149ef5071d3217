# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Points whose grid is not uniform, and the layers and attention cores that they sit in."""

import pytest
import torch
from torch import nn

from qkit.grids.codebook import codebook
from qkit.grids.fit import qparams_up_to
from qkit.grids.shapes import SHAPES
from qkit.nn.attention import OPERANDS, QuantSDPA
from qkit.nn.linear import QuantLinear
from qkit.nn.tensor_quantizer import Mode, TensorQuantizer
from qkit.numerics import fake_quantize, make_grid
from qkit.observers import weight_stats
from qkit.spec import Granularity, GridKind, PointId, QParams, QuantSpec, Scheme

WEIGHT = QuantSpec(4, symmetric=True, granularity=Granularity.CHANNEL)


def point_with(grid, high=1.0, bits=4):
    spec = QuantSpec(bits, grid=grid)
    point = TensorQuantizer(PointId("a", "probs"), spec, axis=-1)
    point.set_qparams(qparams_up_to(torch.tensor(high), spec, SHAPES[grid].parameters[-1]))
    point.set_mode(Mode.QUANTIZE)
    return point


@pytest.mark.parametrize("grid", SHAPES)
@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 4, 5)])
def test_a_point_rounds_to_its_codebook(normal, grid, shape):
    point, x = point_with(grid), normal(*shape)
    assert torch.equal(point(x), codebook(point.qparams, point.spec).round(x))
    assert point.fired == 1


def test_a_new_parameter_is_used_at_once(normal):
    point, x = point_with(GridKind.LOG), normal(40).abs()
    before = point(x)
    point.set_qparams(QParams(point.scale, torch.tensor(1, dtype=torch.int32)))
    assert not torch.equal(point(x), before)
    assert set(point(x).tolist()) <= {0.0, *(2.0**-k for k in range(15))}


def test_scale_and_parameter_are_all_that_is_kept():
    state = point_with(GridKind.TWIN).state_dict()
    assert {name: value.item() for name, value in state.items()} == {
        "scale": pytest.approx(1 / (7 << 15)),
        "zero_point": 15,
    }


def test_constants_follow_their_module(normal):
    point, x = point_with(GridKind.LOG), normal(4, 5).abs()
    before = point(x)
    point.double()
    assert point(x.double()).dtype == torch.float64
    torch.testing.assert_close(point(x.double()).float(), before)


def test_a_core_gives_its_probabilities_their_own_grid(normal):
    q, k, v = (normal(2, 3, 5, 4) for _ in range(3))
    core, probs = QuantSDPA(), QuantSpec(4, grid=GridKind.LOG_SQRT2)
    core.attach("sdpa", QuantSpec(8), probs)
    assert [p.point.role for p in core.points()] == list(OPERANDS)
    assert [p.spec for p in core.points()] == [QuantSpec(8)] * 3 + [probs]
    wide = QParams(torch.tensor(0.05), torch.tensor(128, dtype=torch.int32))
    for point in core.points():
        point.set_qparams(
            wide if point.spec.uniform else qparams_up_to(torch.tensor(1.0), probs, 2)
        )
        point.set_mode(Mode.QUANTIZE)
    q_, k_, v_ = (fake_quantize(x, make_grid(wide, QuantSpec(8))) for x in (q, k, v))
    rounded = codebook(core.points()[3].qparams, probs).round((q_ @ k_.mT / 2).softmax(-1))
    torch.testing.assert_close(core(q, k, v), rounded @ v_)


def test_without_bits_for_attention_there_are_no_points():
    core = QuantSDPA()
    core.attach("sdpa", None, QuantSpec(4))
    assert core.points() == []


@pytest.mark.parametrize("grid", [GridKind.SHIFTED_LOG, GridKind.TWIN_SIGNED])
def test_a_layer_s_integers_and_its_bias_give_its_output(fill, normal, grid):
    """Integer weight rows, codes of the input, one scale an output channel, a changed bias."""
    layer = QuantLinear.from_float(fill(nn.Linear(24, 6)))
    spec = QuantSpec(6, grid=grid)
    layer.attach("a", Scheme(WEIGHT, spec))
    stats = weight_stats(layer.weight, WEIGHT.granularity)
    scales = torch.maximum(-stats.min_val, stats.max_val) / 7
    zero = torch.zeros_like(scales, dtype=torch.int32)
    layer.weight_quantizer.set_qparams(QParams(scales, zero))
    layer.input_quantizer.set_qparams(qparams_up_to(torch.tensor(3.0), spec, 3))
    for point in (layer.weight_quantizer, layer.input_quantizer):
        point.set_mode(Mode.QUANTIZE)
    x = nn.functional.gelu(2 * normal(7, 24))
    found = layer(x)
    integers = layer.weight_quantizer.integers(layer.weight).double()
    point, shape = layer.input_quantizer, SHAPES[grid]
    codes = codebook(point.qparams, spec).codes(x)
    units = shape.units(6, 3)[codes]
    sums = point.scale.double() * (units @ integers.T) - shape.offset * integers.sum(dim=1)
    expected = sums * scales.double() + layer.bias.double()
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
