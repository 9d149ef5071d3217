# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Learning as a part of calibration: through the calibrator, the pipeline and the run folder."""

from dataclasses import replace

import pytest
import torch

import qkit
from calibrators.entropy.optimize import Training, optimize
from qkit.artifact.folder import read_run
from qkit.calibration.install import install
from qkit.calibration.observe import set_mode
from qkit.calibration.protocol import affines_of
from qkit.calibration.registry import create_calibrator
from qkit.errors import CalibrationError, QkitWarning
from qkit.graph.layers import list_points
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.teacher import load_teacher
from qkit.testing import example_session

QUICK = {"samples": 4, "percentiles": (1.0, 0.98), "factors": (), "rows": 64}
LEARN = {"optimize_encoder": True, "pairs": 4, "epochs": 1, "batch": 2, "rate": 1e-2}
TRAINING = Training(epochs=6, batch=4, rate=1e-2, entropy=0.01, error=1.0, stream=1.0, seed=0)
EVEN = {"image": [1.0] * 4, "text": [1.0] * 4}
REFUSED = (
    "optimize_encoder needs both towers' blocks to follow each other, which this model's do not. "
    "Leave it out."
)


def silent(done, **figures):
    """Swallows progress."""


def choose(session, advance=silent, **options):
    return create_calibrator("entropy", QUICK | LEARN | options).calibrate(session, advance)


def features(model, pixels, tokens):
    with torch.no_grad():
        return model.encode_image(pixels), model.encode_text(tokens)


def same(one, other):
    return one.keys() == other.keys() and all(
        all(map(torch.equal, one[point], other[point])) for point in one
    )


@pytest.mark.parametrize("part", ["error", "entropy"])
def test_the_loss_falls(make_rigs, part):
    training, told = replace(TRAINING, **{"error": 0.0, "entropy": 0.0, part: 1.0}), []
    optimize(make_rigs(), EVEN, 0.0, training, told.append)
    assert len(told) == 6
    assert told[-1] < told[0] * {"error": 0.8, "entropy": 0.999}[part]
    assert sum(told[3:]) < sum(told[:3])


def test_the_same_twice_and_another_for_another_seed(make_rigs):
    one, again, other = (
        optimize(make_rigs(), EVEN, 20.0, replace(TRAINING, epochs=1, seed=seed), silent)
        for seed in (0, 0, 1)
    )
    assert all(map(same, one, again))
    assert not any(map(same, one, other))


def test_a_rate_of_nothing_leaves_what_was_chosen(open_bench):
    plain = choose(open_bench(), optimize_encoder=False)
    assert affines_of(plain) == {}
    unmoved = choose(open_bench(), rate=0.0)
    assert same(unmoved, plain)
    assert unmoved.stages == plain.stages
    for gain, shift in unmoved.affines.values():
        assert bool((gain == 1).all() & (shift == 0).all())
    moved = choose(open_bench())
    assert moved.keys() == plain.keys()
    assert not any(torch.equal(moved[point].scale, q.scale) for point, q in plain.items())
    assert all(torch.equal(moved[point].zero_point, q.zero_point) for point, q in plain.items())


def test_all_are_installed_and_the_float_model_is_as_it_was(open_bench, student, samples):
    model, given = student.model, (samples[0].images, samples[0].texts)
    session, told = open_bench(), []
    parameters = {name: p.clone() for name, p in model.named_parameters()}
    before = features(model, *given)
    found = choose(session, lambda n, **figures: told.append((n, figures)), epochs=2)
    assert sum(n for n, _ in told) == len(session.points)
    assert [f.keys() for _, f in told if f] == [{"loss"}] * 2
    assert {point.mode for point in list_points(model)} == {Mode.OFF}
    assert {(p.learned_scale, p.gain, p.shift) for p in list_points(model)} == {(None,) * 3}
    assert all(map(torch.equal, before, features(model, *given)))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    install(model, found, affines_of(found))
    learned = features(model, *given)
    install(model, found)
    assert not any(map(torch.equal, learned, features(model, *given)))
    install(model, found, affines_of(found))
    set_mode(model, Mode.OFF)
    assert all(map(torch.equal, before, features(model, *given)))
    now = dict(model.named_parameters())
    assert all(torch.equal(value, now[name]) for name, value in parameters.items())
    assert all(p.grad is None and p.requires_grad for p in now.values())


def test_what_an_earlier_run_learned_does_not_count(open_bench, student):
    session = open_bench(act_granularity="token")
    first = choose(session)
    install(student.model, first, affines_of(first))
    again = choose(session)
    assert same(again, first)
    assert same(again.affines, first.affines)


@pytest.mark.parametrize("missing", ["images", "texts"])
def test_as_many_pairs_as_both_towers_have(open_bench, samples, missing):
    session = open_bench()
    mixed = [samples[0], *(batch._replace(**{missing: None}) for batch in samples[1:])]
    found = [
        choose(replace(session, bench=replace(session.bench, batches=lambda n, c=count: mixed[:c])))
        for count in (1, 4)
    ]
    assert all(len(one.affines) == 8 for one in found)
    assert not same(*found)


@pytest.fixture(scope="module")
def result(tiny_folder, shapes):
    """The tiny model from disk, learned through the pipeline."""
    flags = qkit.Overrides(samples=6, batch_size=3, method="entropy", options=QUICK | LEARN)
    data = f"captions:{shapes}/captions.csv"
    return qkit.calibrate(f"local-dir:{tiny_folder}", data, bits=4, overrides=flags)


@pytest.fixture(scope="module")
def run(result, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    result.save(path)
    return path


def learned(model):
    points = {p.point: p for p in list_points(model)}
    return {key: (p.gain, p.shift) for key, p in points.items() if p.gain is not None}


def test_a_run_comes_back_bit_for_bit(result, run, pixels, tokens):
    loaded = qkit.load(run)
    before = features(result.model, pixels, tokens)
    assert all(map(torch.equal, before, features(loaded.model, pixels, tokens)))
    assert len(learned(result.model)) == 8
    assert same(learned(loaded.model), learned(result.model))
    assert any(bool((gain != 1).any()) for gain, _ in learned(loaded.model).values())
    for point in list_points(loaded.model):
        point.set_affine(None)
    assert not any(map(torch.equal, before, features(loaded.model, pixels, tokens)))
    assert loaded.recipe.calibrator.options["optimize_encoder"] is True


def test_its_float_model_is_known_as_the_one_it_was_made_of(result, run, tiny, pixels, tokens):
    teacher = load_teacher(read_run(run)).model
    assert same(learned(teacher), learned(result.model))
    quantized = [features(model, pixels, tokens) for model in (teacher, result.model)]
    assert all(map(torch.equal, *quantized))
    for model in (teacher, result.model):
        set_mode(model, Mode.OFF)
    found, known = (features(model, pixels, tokens) for model in (teacher, tiny.model))
    set_mode(result.model, Mode.QUANTIZE)
    for a, b in zip(found, known, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_session_of_statistics_alone_is_refused():
    with pytest.raises(CalibrationError) as caught:
        choose(example_session())
    assert str(caught.value) == REFUSED


def test_towers_that_do_not_chain_are_refused(open_bench):
    session = open_bench()
    bench = session.bench
    turned = {span: tuple(reversed(stages)) for span, stages in bench.stages.items()}
    session = replace(session, bench=replace(bench, stages=turned))
    told = pytest.warns(QkitWarning, match="do not simply follow each other")
    with told, pytest.raises(CalibrationError) as caught:
        choose(session)
    assert str(caught.value) == REFUSED
