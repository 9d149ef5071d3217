# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Coordinates reach an input and every weight that reads it, and nothing that they do not fit."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from calibrators.minmax import MinMax
from qkit.calibration.coordinates import can_transform, install_transforms
from qkit.calibration.install import install
from qkit.calibration.observe import observe, set_mode
from qkit.errors import CalibrationError
from qkit.graph.layers import Layer, list_points
from qkit.nn.conv import QuantConv2d
from qkit.nn.tensor_quantizer import Mode
from qkit.progress import ignore
from qkit.recipe import Recipe, override
from qkit.recipe.overrides import Overrides
from qkit.spec import Granularity, PointId, QuantSpec, Scheme
from qkit.transform import Transform

ATTENTION = "visual.transformer.resblocks.0.attn"
LINEAR = "visual.transformer.resblocks.0.mlp.c_fc"
CONV = "visual.conv1"
SHARED = PointId(ATTENTION, "input")
CHANNEL = QuantSpec(8, granularity=Granularity.CHANNEL)


def transform_of(size, seed=0):
    """Some transform of ``size`` channels, all its parts there."""
    gen = torch.Generator().manual_seed(seed)
    turn = [torch.linalg.qr(torch.randn(n, n, generator=gen)).Q for n in (size // 4, 4)]
    shift = 0.1 * torch.randn(size, generator=gen)
    return Transform(shift, torch.linspace(0.7, 1.4, size), turn[::-1], turn)


def everywhere(student):
    """A transform for every input whose channels can be mixed."""
    found = {}
    for layer in student.layers:
        for point in layer.input_quantizers:
            if layer.reads and can_transform(layer, point.spec):
                found.setdefault(point.point, transform_of(layer.reads))
    return found


def embeddings(student, pixels, tokens):
    with torch.no_grad():
        return student.model.encode_image(pixels), student.model.encode_text(tokens)


def test_q_k_and_v_share_what_their_input_gets(student):
    transform = transform_of(64)
    install_transforms(student.layers, {SHARED: transform})
    holders = [p.point for p in list_points(student.model) if p.transform is not None]
    readers = {PointId(f"{ATTENTION}.{part}_proj", "weight") for part in "qkv"}
    assert set(holders) == {SHARED, *readers}
    assert len(holders) == 4
    assert all(p.transform in (None, transform) for p in list_points(student.model))


def test_every_input_with_a_weight_can_have_some(student):
    chosen = everywhere(student)
    assert {PointId(CONV, "input"), SHARED, PointId(LINEAR, "input")} <= set(chosen)
    install_transforms(student.layers, chosen)
    with_one = [layer for layer in student.layers if layer.reads and layer.input_quantizers]
    for layer in with_one:
        assert layer.weight_quantizer.transform is layer.input_quantizers[0].transform
        assert layer.weight_quantizer.transform is chosen[layer.input_quantizers[0].point]


def test_a_model_in_float_does_not_change(student, pixels, tokens):
    set_mode(student.model, Mode.OFF)
    before = embeddings(student, pixels, tokens)
    install_transforms(student.layers, everywhere(student))
    after = embeddings(student, pixels, tokens)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("granularity", ["tensor", "token"])
def test_eight_bits_stay_close_to_float(
    make_student, batches, session_of, pixels, tokens, granularity
):
    student = make_student(override(Recipe(), Overrides(bits=8, act_granularity=granularity)))
    floats = embeddings(student, pixels, tokens)
    install_transforms(student.layers, everywhere(student))
    observe(student.model, batches, ignore)
    install(student.model, MinMax().calibrate(session_of(student), ignore))
    for found, expected in zip(embeddings(student, pixels, tokens), floats, strict=True):
        assert not torch.equal(found, expected)
        assert F.cosine_similarity(found, expected).min() > 0.99


def test_what_was_found_in_other_coordinates_is_dropped(student, batches, session_of):
    observe(student.model, batches, ignore)
    install(student.model, MinMax().calibrate(session_of(student), ignore))
    points = {p.point: p for p in list_points(student.model)}
    install_transforms(student.layers, {PointId(LINEAR, "input"): transform_of(64)})
    lost = {point for point, p in points.items() if not p.spec.dynamic and p.scale is None}
    assert lost == {PointId(LINEAR, "input"), PointId(LINEAR, "weight")}


@pytest.mark.parametrize("point", [PointId("nowhere", "input"), PointId(LINEAR, "weight")])
def test_an_input_that_is_not_there(student, point):
    with pytest.raises(CalibrationError, match=f"{point} has no input to go to"):
        install_transforms(student.layers, {point: transform_of(64)})
    assert all(p.transform is None for p in list_points(student.model))


def test_channels_with_scales_of_their_own_are_not_mixed(make_student):
    student = make_student(override(Recipe(), Overrides(act_granularity="channel")))
    with pytest.raises(CalibrationError, match=f"{LINEAR}:input has scales by channel.* be mixed"):
        install_transforms(student.layers, {PointId(LINEAR, "input"): transform_of(64)})


OVERLAPPING = {
    "overlap": {"kernel_size": 2},
    "padding": {"kernel_size": 2, "stride": 2, "padding": 1},
    "dilation": {"kernel_size": 2, "stride": 2, "dilation": 2},
    "groups": {"kernel_size": 2, "stride": 2, "groups": 3},
}


@pytest.mark.parametrize("options", OVERLAPPING.values(), ids=OVERLAPPING)
def test_windows_that_share_values_are_not_mixed(options):
    module = QuantConv2d.from_float(nn.Conv2d(3, 6, **options))
    module.attach("stem", Scheme(input=QuantSpec(8)))
    layer = Layer("stem", "image", "conv", module)
    assert not can_transform(layer, QuantSpec(8))
    with pytest.raises(CalibrationError, match=r"stem:input .*overlapping windows.* be mixed"):
        install_transforms([layer], {PointId("stem", "input"): Transform(torch.zeros(layer.reads))})


def test_patches_are_mixed_unless_scales_go_by_channel():
    module = QuantConv2d.from_float(nn.Conv2d(3, 6, 2, stride=2))
    layer = Layer("stem", "image", "conv", module)
    assert can_transform(layer, QuantSpec(8))
    assert not can_transform(layer, CHANNEL)


MISFITS = {
    "shift": (Transform(torch.zeros(63)), r"the shift of .* has shape \(63,\); its input needs 64"),
    "nan": (Transform(torch.full((64,), torch.nan)), r"the shift of .* needs 64 finite values"),
    "gain": (Transform(gain=torch.ones(1, 64)), r"the gain of .* has shape \(1, 64\)"),
    "no gain": (Transform(gain=torch.zeros(64)), "none of them a gain of 0"),
    "before": (Transform(before=[torch.eye(8), torch.eye(4)]), r"shapes .*\(4, 4\).*input 64"),
    "after": (Transform(after=[torch.eye(128)]), "sizes multiply to that number"),
    "oblong": (Transform(after=[torch.ones(8, 8), torch.ones(8, 4)]), "must be square"),
    "stretched": (Transform(after=[torch.eye(8), 2 * torch.eye(8)]), "not orthogonal"),
    "clip": (Transform(clip=-3.0), "clip of .* is -3"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_sizes_that_do_not_fit(student, name):
    transform, message = MISFITS[name]
    with pytest.raises(CalibrationError, match=message):
        install_transforms(student.layers, {PointId(LINEAR, "input"): transform})
    assert all(p.transform is None for p in list_points(student.model))
