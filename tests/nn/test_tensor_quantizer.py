# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
import pytest
import torch

from qkit.errors import CalibrationError
from qkit.nn.tensor_quantizer import Mode, TensorQuantizer
from qkit.numerics import fake_quantize, make_grid, qparams_from_range, token_qparams
from qkit.spec import Granularity, PointId, QParams, QuantSpec, Range

POINT = PointId("visual.conv1", "input")


def make(spec, axis=-1):
    return TensorQuantizer(POINT, spec, axis)


def test_off_returns_the_very_tensor_and_counts_nothing(normal):
    point, x = make(QuantSpec(8)), normal(2, 3)
    assert point.mode is Mode.OFF
    assert point(x) is x
    assert point.fired == 0


def test_observing_returns_the_very_tensor_and_counts(normal):
    point, batches = make(QuantSpec(8)), [normal(2, 3), normal(2, 3) * 5]
    point.set_mode(Mode.OBSERVE)
    assert all(point(x) is x for x in batches)
    assert point.fired == 2
    stats = point.stats()
    assert stats.min_val == torch.stack(batches).min()
    assert stats.max_val == torch.stack(batches).max()
    point.set_mode(Mode.OFF)
    point(normal(2, 3) * 1000)
    assert point.stats().max_val == stats.max_val


def test_observing_leaves_the_graph_of_a_trained_tensor_alone(normal):
    point, x = make(QuantSpec(8)), normal(2, 3).requires_grad_()
    point.set_mode(Mode.OBSERVE)
    point(x).sum().backward()
    assert torch.equal(x.grad, torch.ones(2, 3))
    assert not point.stats().max_val.requires_grad


@pytest.mark.parametrize("granularity", [Granularity.TENSOR, Granularity.CHANNEL])
@pytest.mark.parametrize("axis", [1, -1])
def test_quantizing_is_that_of_numerics_for_any_number_of_dimensions(normal, granularity, axis):
    spec = QuantSpec(4, granularity=granularity)
    point = make(spec, axis)
    low = -normal(5).abs() if granularity is Granularity.CHANNEL else torch.tensor(-1.0)
    q = qparams_from_range(Range(low, -2 * low), spec)
    point.set_qparams(q)
    point.set_mode(Mode.QUANTIZE)
    shapes = [(2, 5), (2, 5, 5), (2, 5, 5, 5)] if axis == 1 else [(5,), (2, 5), (2, 3, 5)]
    for count, shape in enumerate(shapes, start=1):
        x = normal(*shape)
        grid = make_grid(q, spec, axis if q.scale.ndim else None, x.ndim)
        assert torch.equal(point(x), fake_quantize(x, grid))
        assert point.fired == count


def test_new_scale_is_used_at_once(normal):
    spec, x = QuantSpec(8), normal(2, 3)
    point = make(spec)
    point.set_mode(Mode.QUANTIZE)
    results = []
    for width in (1.0, 3.0):
        q = qparams_from_range(Range(torch.tensor(-width), torch.tensor(width)), spec)
        point.set_qparams(q)
        results.append(point(x))
        assert torch.equal(results[-1], fake_quantize(x, make_grid(q, spec)))
    assert not torch.equal(*results)


def test_constants_follow_their_module(normal):
    """To another type, and to another device: those kept from before could not meet its data."""
    point = make(QuantSpec(8, granularity=Granularity.CHANNEL))
    point.set_qparams(QParams(torch.full((3,), 0.1), torch.full((3,), 7, dtype=torch.int32)))
    point.set_mode(Mode.QUANTIZE)
    assert point(normal(2, 3)).dtype == torch.float32
    version = point.version
    point.double()
    assert point.version > version
    assert point.qparams.scale.dtype == torch.float64
    assert point(normal(2, 3)).dtype == torch.float64
    point.to("meta")
    assert point(torch.empty(2, 3, device="meta")).device.type == "meta"


def test_dynamic_scales_are_those_of_each_token(normal):
    spec = QuantSpec(4, granularity=Granularity.TOKEN)
    point, x = make(spec), normal(2, 3, 8) * torch.tensor([1.0, 10.0, 0.01])[:, None]
    point.set_mode(Mode.QUANTIZE)
    assert torch.equal(point(x), fake_quantize(x, make_grid(token_qparams(x, spec), spec)))
    for n in range(2):
        for token in range(3):
            row = x[n, token]
            alone = make_grid(qparams_from_range(Range(row.min(), row.max()), spec), spec)
            assert torch.equal(point(x)[n, token], fake_quantize(row, alone))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused_by_name(normal, bad):
    point, x = make(QuantSpec(8)), normal(2, 3)
    x[1, 1] = bad
    point.set_mode(Mode.OBSERVE)
    with pytest.raises(CalibrationError) as caught:
        point(x)
    assert str(caught.value) == (
        "visual.conv1:input holds NaN or infinite values during calibration. "
        "Check the checkpoint, or leave this layer in float with an ignore rule."
    )


def test_quantizing_without_a_scale_is_refused_by_name(normal):
    point = make(QuantSpec(8))
    point.set_mode(Mode.QUANTIZE)
    with pytest.raises(CalibrationError) as caught:
        point(normal(2, 3))
    assert str(caught.value) == ("visual.conv1:input has no scale yet. Calibrate the model first.")


def test_statistics_before_data_and_after_a_scale_are_refused_by_name(normal):
    point = make(QuantSpec(8))
    expected = "visual.conv1:input saw no data. Run calibration data through the model first."
    with pytest.raises(CalibrationError) as caught:
        point.stats()
    assert str(caught.value) == expected
    point.set_mode(Mode.OBSERVE)
    point(normal(2, 3))
    point.set_qparams(QParams(torch.tensor(0.1), torch.tensor(0, dtype=torch.int32)))
    with pytest.raises(CalibrationError, match="saw no data"):
        point.stats()


def test_state_dict_holds_scale_and_zero_point_and_no_observer(normal):
    point = make(QuantSpec(8))
    point.set_mode(Mode.OBSERVE)
    point(normal(2, 3))
    point.set_qparams(QParams(torch.tensor(0.5), torch.tensor(3, dtype=torch.int32)))
    state = point.state_dict()
    assert {name: value.item() for name, value in state.items()} == {"scale": 0.5, "zero_point": 3}


def test_point_describes_itself():
    text = str(make(QuantSpec(4, granularity=Granularity.CHANNEL)))
    assert text == "TensorQuantizer(visual.conv1:input, int4 affine per channel, off)"
