# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The entropy calibrator on recipes of every kind, on towers that do not chain, in the pipeline."""

import warnings

import pytest
import torch

import qkit
from calibrators.entropy import Entropy
from calibrators.mse import Mse
from qkit.calibration.install import install
from qkit.calibration.observe import set_mode
from qkit.errors import QkitWarning
from qkit.graph.layers import list_points
from qkit.nn.tensor_quantizer import Mode
from qkit.recipe import Recipe, SchemeRule
from qkit.spec import Granularity, QuantSpec, Scheme

QUICK = {"samples": 4, "percentiles": (1.0, 0.98), "factors": (), "rows": 64}
WEIGHTS = QuantSpec(4, True, Granularity.CHANNEL)


def silent(done, **figures):
    """Swallows progress."""


def choose(session, **options):
    return Entropy(**QUICK | options).calibrate(session, silent)


def same(one, other):
    return one.keys() == other.keys() and all(
        all(map(torch.equal, one[point], other[point])) for point in one
    )


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_every_number_of_bits(open_bench, student, bits):
    session = open_bench(bits=bits, attn_bits=bits)
    found = choose(session)
    install(student.model, found)
    set_mode(student.model, Mode.OFF)
    assert all(note.error <= note.start for note in found.stages)


def test_more_bits_leave_less_error(open_bench):
    errors = [choose(open_bench(bits=bits, attn_bits=bits)).stages[0].error for bits in (2, 5)]
    assert errors[0] > 9 * errors[1]


@pytest.mark.parametrize(
    ("granularity", "objective"),
    [("token", "importance"), ("token", "plain"), ("channel", "plain")],
)
def test_other_inputs(open_bench, student, granularity, objective):
    session = open_bench(act_granularity=granularity)
    found = choose(session, objective=objective)
    assert found.keys() == session.points.keys()
    install(student.model, found)
    set_mode(student.model, Mode.OFF)
    assert len(found.stages) == 8


@pytest.mark.parametrize("scheme", [Scheme(WEIGHTS), Scheme(input=QuantSpec(4))], ids=str)
def test_weights_only_and_inputs_only(open_bench, scheme):
    session = open_bench(Recipe(rules=(SchemeRule(scheme=scheme),)))
    found = choose(session)
    assert found.keys() == session.points.keys()
    assert not same(found, Mse().calibrate(session, silent))
    assert any(note.error < note.start for note in found.stages)


def test_blocks_that_are_left_in_float(open_bench):
    rule = SchemeRule(match="visual.conv1", scheme=Scheme(WEIGHTS, QuantSpec(4)))
    session = open_bench(Recipe(rules=(rule,)))
    found = choose(session)
    assert {point.module for point in found} == {"visual.conv1"}
    assert all(note.error == note.start for note in found.stages)


def test_blocks_that_do_not_chain_are_chosen_layer_by_layer(open_bench, student, monkeypatch):
    session = open_bench()
    whole = choose(session)
    forward = type(student.model.visual.transformer).forward

    def scaled(self, x, *args, **kwargs):
        handle = self.resblocks[1].register_forward_pre_hook(lambda _, a: (a[0] * 1.5, *a[1:]))
        try:
            return forward(self, x, *args, **kwargs)
        finally:
            handle.remove()

    monkeypatch.setattr(type(student.model.visual.transformer), "forward", scaled)
    with pytest.warns(QkitWarning, match="tower do not simply follow each other"):
        found = choose(session)
    assert found.keys() == session.points.keys()
    assert not found.stages
    assert not same(found, whole)
    assert not same(found, Mse().calibrate(session, silent))


def test_through_the_pipeline(tiny, shapes, pixels):
    data = f"captions:{shapes / 'captions.csv'}"
    options = {**QUICK, "threshold": 0.0}
    flags = qkit.Overrides(samples=6, options=options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, again, mse = (
            qkit.calibrate(tiny, data, bits=4, method=method, overrides=own)
            for method, own in (
                ("entropy", flags), ("entropy", flags), ("mse", qkit.Overrides(samples=6))
            )
        )  # fmt: skip
    assert found.report.layers == again.report.layers
    assert found.report.layers != mse.report.layers
    assert {point.mode for point in list_points(found.model)} == {Mode.QUANTIZE}
    assert torch.equal(found.model.encode_image(pixels), again.model.encode_image(pixels))
    assert found.report.label == "W4A4 attn8, entropy"
    assert min(found.report.embedding_cosine.values()) > 0.5
