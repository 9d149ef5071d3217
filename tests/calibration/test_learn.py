# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What can be learned of a tower is found, applied for a while, and taken away again."""

import pytest
import torch
from torch import nn

from calibrators.minmax import MinMax
from qkit.calibration.bench import Bench
from qkit.calibration.install import install
from qkit.calibration.learn import frozen, open_learner
from qkit.calibration.observe import observe, set_mode
from qkit.calibration.running import switched
from qkit.calibration.session import open_session
from qkit.graph.layers import list_points
from qkit.nn.tensor_quantizer import Mode
from qkit.recipe import Recipe, override
from qkit.recipe.overrides import Overrides
from qkit.spec import PointId

PATHS = {"image": "visual.transformer.resblocks", "text": "transformer.resblocks"}


def silent(done):
    """Swallows progress."""


@pytest.fixture
def make_rigs(make_student, batches):
    """Both towers of the tiny model, observed, with min-max scales; points are off."""

    def make(recipe=None, **flags):
        recipe = override(recipe or Recipe(), Overrides(**flags))
        student = make_student(recipe)
        observe(student.model, batches, silent)
        session = open_session(student.model, student.layers)
        install(student.model, MinMax().calibrate(session, silent))
        set_mode(student.model, Mode.OFF)
        bench = Bench(student.model, student.layers, {"half": ()}, lambda n: batches)
        return dict(zip(PATHS, bench.rigs("half", 8), strict=True)), student.model

    return make


def features(rig):
    with switched(rig.points.values(), True), torch.no_grad():
        return rig.encode(rig.samples[0])


def after_norms(tower):
    """Points that LayerNorms of the tiny model feed: two a block, none at the towers' ends."""
    blocks = [f"{PATHS[tower]}.{i}" for i in range(2)]
    return {PointId(f"{b}.{part}", "input") for b in blocks for part in ("attn", "mlp.c_fc")}


def snapshot(model):
    """All that a forward could depend on."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    points = [(p.mode, p.fired, p.learned_scale, p.version) for p in list_points(model)]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    moving = [p.requires_grad for p in model.parameters()]
    return state, points, hooks, moving


def same(one, other):
    states = (one[0], other[0])
    equal = states[0].keys() == states[1].keys() and one[1:] == other[1:]
    return equal and all(torch.equal(value, states[1][n]) for n, value in states[0].items())


@pytest.mark.parametrize("tower", PATHS)
@pytest.mark.parametrize("granularity", ["tensor", "token"])
def test_it_finds_just_the_points_that_layer_norms_feed(make_rigs, tower, granularity):
    rigs, model = make_rigs(bits=4, act_granularity=granularity)
    before = snapshot(model)
    learner = open_learner(rigs[tower])
    assert {point.point for point, _ in learner.normalised} == after_norms(tower)
    assert {channels for _, channels in learner.normalised} == {64 if tower == "image" else 32}
    assert same(snapshot(model), before)


def test_a_scale_per_channel_already_is_a_gain(make_rigs):
    rigs, _ = make_rigs(act_granularity="channel")
    for rig in rigs.values():
        learner = open_learner(rig)
        assert learner.normalised == []
        assert {p.point.role for p in learner.points} >= {"input", "weight"}


def test_a_norm_that_feeds_more_than_the_point_is_found_and_one_in_between_is_not(make_rigs):
    """A copy of what the norm gave is no longer the tensor that it gave."""
    rigs, model = make_rigs()
    block = model.visual.transformer.resblocks[0]
    block.ln_2 = nn.Sequential(block.ln_2, nn.Hardtanh(-1e9, 1e9))
    found = {point.point for point, _ in open_learner(rigs["image"]).normalised}
    assert found == after_norms("image") - {PointId(f"{PATHS['image']}.0.mlp.c_fc", "input")}


@pytest.mark.parametrize("tower", PATHS)
def test_all_scales_but_those_of_token_tables(make_rigs, tower):
    rigs, _ = make_rigs(bits=4)
    rig = rigs[tower]
    left = {point for point in rig.points.values() if point not in open_learner(rig).points}
    tables = {PointId("token_embedding", "weight")} if tower == "text" else set()
    assert {point.point for point in left} == tables


def test_no_scale_of_a_dynamic_point(make_rigs):
    rigs, _ = make_rigs(act_granularity="token")
    for rig in rigs.values():
        learner = open_learner(rig)
        assert any(point.spec.dynamic for point in rig.points.values())
        assert not any(point.spec.dynamic for point in learner.points)
        assert learner.points


@pytest.mark.parametrize("granularity", ["tensor", "token"])
def test_before_any_step_it_is_what_is_installed(make_rigs, granularity):
    rigs, _ = make_rigs(bits=4, act_granularity=granularity)
    for rig in rigs.values():
        learner = open_learner(rig)
        scales, affines = learner.learned()
        assert scales.keys() == {point.point for point in learner.points}
        assert affines.keys() == {point.point for point, _ in learner.normalised}
        for point, q in scales.items():
            assert all(map(torch.equal, q, rig.points[point].qparams))
            assert not q.scale.requires_grad
        for gain, shift in affines.values():
            assert not gain.requires_grad
            assert torch.equal(gain, torch.ones_like(gain))
            assert torch.equal(shift, torch.zeros_like(shift))


@torch.no_grad()
def move(learner):
    for i, step in enumerate(learner.steps):
        step.fill_(0.2 if i % 2 else -0.3)
    for gain, shift in learner.affines:
        gain.mul_(1.1)
        shift.add_(0.05)


def test_what_is_learned_counts_while_applied_and_leaves_nothing_behind(make_rigs):
    rigs, model = make_rigs(bits=4)
    for rig in rigs.values():
        learner, plain = open_learner(rig), features(rig)
        move(learner)
        before = snapshot(model)
        with learner.applied():
            moved = features(rig)
            assert not torch.allclose(moved, plain)
        assert same(snapshot(model), before)
        assert torch.equal(features(rig), plain)


def test_what_was_learned_does_the_same_installed_as_applied(make_rigs):
    rigs, model = make_rigs()
    chosen = {p.point: p.qparams for p in list_points(model)}
    affines, expected = {}, {}
    for tower, rig in rigs.items():
        learner = open_learner(rig)
        move(learner)
        with learner.applied():
            expected[tower] = features(rig)
        scales, found = learner.learned()
        chosen |= scales
        affines |= found
    install(model, chosen, affines)
    for tower, rig in rigs.items():  # but for ties, and the last bit of a scale
        assert (features(rig) - expected[tower]).norm() / expected[tower].norm() < 1e-2
    install(model, chosen)
    assert not any(torch.allclose(features(rig), expected[t], 1e-2) for t, rig in rigs.items())


def test_an_error_leaves_nothing_behind_either(make_rigs):
    rigs, model = make_rigs(bits=4)
    learner = open_learner(rigs["text"])
    move(learner)
    before = snapshot(model)
    with pytest.raises(KeyError), learner.applied():
        raise KeyError
    assert same(snapshot(model), before)
    learner.steps[-1] = "no tensor"
    with pytest.raises(AttributeError), learner.applied():
        pass
    assert same(snapshot(model), before)


def test_frozen_parameters_move_again_afterwards_and_no_others(make_rigs):
    rigs, model = make_rigs()
    model.visual.conv1.weight.requires_grad_(False)
    before = [p.requires_grad for p in model.parameters()]
    assert len(set(before)) == 2
    with frozen(list(rigs.values())):
        assert not any(p.requires_grad for p in model.parameters())
    assert before == [p.requires_grad for p in model.parameters()]
    with pytest.raises(KeyError), frozen([rigs["image"]]):
        raise KeyError
    assert before == [p.requires_grad for p in model.parameters()]
