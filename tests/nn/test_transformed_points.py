# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Points that observe and round in other coordinates."""

import pytest
import torch
from torch import nn

from qkit.errors import CalibrationError
from qkit.nn.conv import QuantConv2d
from qkit.nn.tensor_quantizer import Mode, TensorQuantizer
from qkit.numerics import fake_quantize, make_grid, token_qparams
from qkit.spec import Granularity, PointId, QuantSpec, Rounding, Scheme
from qkit.transform import Transform
from tests.nn.coordinates import scales, some_transform

SPECS = {
    "affine": QuantSpec(4),
    "symmetric": QuantSpec(4, symmetric=True),
    "token": QuantSpec(4, granularity=Granularity.TOKEN),
    "symmetric token": QuantSpec(4, symmetric=True, granularity=Granularity.TOKEN),
}
W8 = QuantSpec(8, symmetric=True, granularity=Granularity.CHANNEL)


def make(spec, x, transform):
    """A switched-on input point, its scale, if it has one, that of ``x`` in the coordinates."""
    point = TensorQuantizer(PointId("a", "input"), spec, axis=-1)
    point.set_transform(transform)
    if not spec.dynamic:
        point.set_qparams(scales(transform.into(x), spec))
    point.set_mode(Mode.QUANTIZE)
    return point


@pytest.mark.parametrize("clip", [1.0, 0.8])
@pytest.mark.parametrize("name", SPECS)
def test_a_point_rounds_in_its_coordinates(name, clip, normal):
    spec, transform, x = SPECS[name], some_transform(clip), 2 * normal(3, 5, 12) + 1
    point, z = make(spec, x, transform), transform.into(x)
    q = token_qparams(z, spec, clip) if spec.dynamic else point.qparams
    expected = transform.out_of(fake_quantize(z, make_grid(q, spec)))
    assert torch.equal(point(x), expected)
    steps = (transform.into(point(x)) / q.scale) + (q.zero_point - spec.quant_min)
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)
    off = steps - point.positions(x).clamp(0, 15)
    assert off.abs().max() < 0.5 + 1e-4


def test_the_clip_narrows_the_scale_of_every_token(normal):
    spec, x = SPECS["symmetric token"], normal(6, 12)
    wide, narrow = (make(spec, x, Transform(clip=clip))(x) for clip in (1.0, 0.75))
    assert bool((narrow.abs().amax(1) < 0.9 * wide.abs().amax(1)).all())
    largest = x.abs().argmax(1, keepdim=True)
    reach = x.gather(1, largest)
    level = torch.where(reach > 0, spec.quant_max, spec.quant_min)
    torch.testing.assert_close(narrow.gather(1, largest), level * 0.75 * reach.abs() / 7.5)


def test_mode_off_returns_the_input_itself(normal):
    x = normal(3, 12)
    point = make(QuantSpec(4), x, some_transform())
    point.set_mode(Mode.OFF)
    assert point(x) is x
    conv = QuantConv2d.from_float(nn.Conv2d(3, 5, 2, stride=2))
    conv.attach("a", Scheme(input=SPECS["token"]))
    conv.input_quantizer.set_transform(some_transform())
    pixels = normal(1, 3, 5, 7)
    assert conv.quantized_input(pixels) is pixels


@pytest.mark.parametrize("name", ["affine", "token"])
def test_observing_sees_the_coordinates_and_passes_the_input(name, normal):
    x, transform = normal(3, 5, 12), some_transform()
    point = TensorQuantizer(PointId("a", "input"), SPECS[name], axis=-1)
    point.set_transform(transform)
    point.set_mode(Mode.OBSERVE)
    assert point(x) is x
    stats, z = point.stats(), transform.into(x)
    assert (stats.min_val, stats.max_val) == (z.min(), z.max())
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        point(torch.full((1, 12), torch.inf))


def test_other_coordinates_drop_what_was_found_in_others(normal):
    point = TensorQuantizer(PointId("a", "weight"), W8, axis=0)
    weight = normal(4, 12)
    point.set_qparams(scales(weight, W8, 0))
    point.set_rounding(Rounding(point.integers(weight), torch.ones(4)))
    for transform in (some_transform(), None):
        version = point.version
        point.set_mode(Mode.OBSERVE)
        point(weight)
        point.set_transform(transform)
        assert point.version > version
        assert point.levels is point.correction is point.observer is None
        with pytest.raises(CalibrationError, match="no scale yet"):
            _ = point.qparams
        with pytest.raises(CalibrationError, match="saw no data"):
            point.stats()
        point.set_qparams(scales(weight, W8, 0))
        point.set_rounding(Rounding(None, torch.ones(4)))
