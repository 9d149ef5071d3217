# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Installing scales: exactly the session's points, each finite and positive."""

import re

import pytest
import torch

from calibrators.minmax import MinMax
from qkit.calibration.install import install
from qkit.calibration.observe import observe, set_mode
from qkit.errors import CalibrationError
from qkit.graph.layers import list_points
from qkit.nn.tensor_quantizer import Mode
from qkit.recipe import Recipe, SchemeRule, override
from qkit.recipe.overrides import Overrides
from qkit.spec import Granularity, PointId, QParams, QuantSpec, Scheme

FIRST = PointId("visual.conv1", "input")


def silent(done):
    """Swallows progress."""


@pytest.fixture
def chosen(student, batches, session_of):
    """Scales for every point of the student."""
    observe(student.model, batches, silent)
    return dict(MinMax().calibrate(session_of(student), silent))


def test_scales_are_in_place_and_observers_gone(student, chosen):
    install(student.model, chosen)
    for point in list_points(student.model):
        assert point.mode is Mode.QUANTIZE
        assert point.observer is None
        assert all(map(torch.equal, point.qparams, chosen[point.point]))


def test_the_model_then_runs_quantized(student, chosen, pixels):
    with torch.no_grad():
        set_mode(student.model, Mode.OFF)
        before = student.model.encode_image(pixels)
        install(student.model, chosen)
        after = student.model.encode_image(pixels)
        set_mode(student.model, Mode.OFF)
        again = student.model.encode_image(pixels)
    assert not torch.equal(before, after)
    assert torch.cosine_similarity(before, after).min() > 0.99
    assert torch.equal(before, again)


def test_missing_point(student, chosen):
    del chosen[FIRST]
    fact = r"^the calibrator returned no scale for visual.conv1:input \(1 such\)\. It must return"
    with pytest.raises(CalibrationError, match=fact):
        install(student.model, chosen)


def test_extra_points(student, chosen):
    chosen[PointId("aaa", "input")] = chosen[PointId("zzz", "input")] = chosen[FIRST]
    fact = r"^the calibrator returned a scale too many, aaa:input \(2 such\)\. It must return"
    with pytest.raises(CalibrationError, match=fact):
        install(student.model, chosen)


def test_a_per_token_point_takes_no_scale(make_student, batches, session_of):
    student = make_student(override(Recipe(), Overrides(act_granularity="token")))
    observe(student.model, batches, silent)
    chosen = dict(MinMax().calibrate(session_of(student), silent))
    assert FIRST not in chosen
    with pytest.raises(CalibrationError, match=r"a scale too many, visual.conv1:input"):
        install(student.model, {**chosen, FIRST: next(iter(chosen.values()))})
    install(student.model, chosen)
    left = {(point.mode, point.observer) for point in list_points(student.model)}
    assert left == {(Mode.QUANTIZE, None)}


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (-0.5, "-0.5"), (float("nan"), "nan"), (float("inf"), "inf")],
)
def test_unusable_scale(student, chosen, value, shown):
    q = chosen[FIRST]
    chosen[FIRST] = QParams(torch.full_like(q.scale, value), q.zero_point)
    fact = rf"^the calibrator returned scale {shown} for visual.conv1:input\. Scales must be finite"
    with pytest.raises(CalibrationError, match=fact):
        install(student.model, chosen)


def test_one_unusable_scale_among_the_channels(student, chosen):
    point = PointId("visual.conv1", "weight")
    scale = chosen[point].scale.clone()
    scale[5] = -2.0
    chosen[point] = QParams(scale, chosen[point].zero_point)
    with pytest.raises(CalibrationError, match=r"returned scale -2 for visual.conv1:weight"):
        install(student.model, chosen)


@pytest.mark.parametrize(
    ("point", "shape", "needed"),
    [
        (PointId("visual.conv1", "weight"), (1,), r"\(64,\)"),
        (PointId("visual.conv1", "weight"), (3,), r"\(64,\)"),
        (PointId("visual.conv1", "weight"), (), r"\(64,\)"),
        (FIRST, (1,), r"\(\)"),
        (PointId("transformer.resblocks.0.attn", "input"), (32,), r"\(\)"),
        (PointId("transformer.resblocks.0.attn.sdpa", "probs"), (1,), r"\(\)"),
    ],
)
def test_scale_of_the_wrong_shape(student, chosen, point, shape, needed):
    """It would broadcast to something nobody chose, or fail at the first forward."""
    scale, zero_point = torch.ones(shape), torch.zeros(shape, dtype=torch.int32)
    fact = rf"scale of shape {re.escape(str(shape))} for {point}, which needs {needed}\. Return"
    with pytest.raises(CalibrationError, match=fact):
        install(student.model, {**chosen, point: QParams(scale, zero_point)})
    fact = rf"zero point of shape {re.escape(str(shape))} for {point}, which needs {needed}"
    with pytest.raises(CalibrationError, match=fact):
        install(student.model, {**chosen, point: QParams(chosen[point].scale, zero_point)})


@pytest.mark.parametrize("granularity", ["tensor", "channel", "token"])
@pytest.mark.parametrize("weight", list(Granularity)[:2])
def test_scales_of_every_granularity_are_taken(
    make_student, batches, session_of, weight, granularity
):
    rule = SchemeRule(scheme=Scheme(weight=QuantSpec(8, granularity=weight), input=QuantSpec(8)))
    recipe = override(Recipe(rules=(rule,)), Overrides(act_granularity=granularity))
    student = make_student(recipe)
    observe(student.model, batches, silent)
    install(student.model, MinMax().calibrate(session_of(student), silent))
    images, texts = batches[0]
    with torch.no_grad():
        assert torch.isfinite(student.model.encode_image(images)).all()
        assert torch.isfinite(student.model.encode_text(texts)).all()
