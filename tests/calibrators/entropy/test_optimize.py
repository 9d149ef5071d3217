# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The losses of the visual encoder optimization: what they are, and what their gradients reach."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from calibrators.entropy.dependency import Dependency, soft_assignment
from calibrators.entropy.losses import Seen, agreement_loss, entropy_loss, error_loss
from calibrators.entropy.optimize import Optimizer, Tower, Training
from qkit.calibration.learn import frozen

QUICK = Training(epochs=3, batch=4, rate=1e-2, entropy=0.01, error=1.0, stream=1.0, seed=0)
SCALE = 20.0
BATCH = torch.arange(4)
ENDS = {"image": "visual.proj", "text": "text_projection"}


@pytest.fixture
def optimizer(make_rigs):
    def make(recipe=None, **flags):
        rigs = make_rigs(recipe, **flags)
        return Optimizer([Tower(rig, [1.0] * 4) for rig in rigs], SCALE, QUICK)

    return make


def learned(tower):
    """Every tensor that is learned of a tower, by name."""
    learner = tower.learner
    found = {str(p.point): x for p, x in zip(learner.points, learner.steps, strict=True)}
    for (point, _), affine in zip(learner.normalised, learner.affines, strict=True):
        found |= {f"{point.point} {name}": x for name, x in affine._asdict().items()}
    return found


def see(tower, quantized=True):
    with tower.learner.applied():
        return tower.see(tower.samples[BATCH], quantized=quantized)


def reached(tower, loss):
    """Names of what the gradient of a loss is not zero for; all of it is finite."""
    names = learned(tower)
    grads = torch.autograd.grad(loss, list(names.values()), allow_unused=True, retain_graph=True)
    pairs = [(name, g) for name, g in zip(names, grads, strict=True) if g is not None]
    assert all(bool(torch.isfinite(g).all()) for _, g in pairs)
    return {name for name, g in pairs if bool((g != 0).any())}


def behind_last_activation(tower):
    """What cannot change the activations whose entropy counts: the end of the tower's last MLP."""
    last = tower.rig.stages[-1].name
    rest = (f"{last}.c_fc:weight", f"{last}.c_proj:", ENDS[tower.rig.tower])
    return {name for name in learned(tower) if name.startswith(rest)}


@pytest.mark.parametrize("granularity", ["tensor", "channel", "token"])
def test_all_that_is_learned_gets_a_gradient_from_the_whole_loss(optimizer, granularity):
    one = optimizer(act_granularity=granularity)
    rigs = [tower.rig for tower in one.towers]
    parameters = list(next(iter(rigs[0].modules())).parameters())
    assert any(p.requires_grad for p in parameters)
    with frozen(rigs):
        one.loss(BATCH).backward()
    for tower in one.towers:
        names = learned(tower)
        assert len(tower.learner.affines) == (0 if granularity == "channel" else 4)
        dead = [n for n, x in names.items() if x.grad is None or not bool((x.grad != 0).any())]
        assert dead == []
        assert all(bool(torch.isfinite(x.grad).all()) for x in names.values())
    assert all(p.grad is None for p in parameters)


def test_each_part_of_the_loss_reaches_what_it_depends_on(optimizer):
    one = optimizer()
    with frozen([tower.rig for tower in one.towers]):
        target = [see(tower, quantized=False) for tower in one.towers]
        seen = [see(tower) for tower in one.towers]
        agreement = agreement_loss(*([s.embedding for s in x] for x in (seen, target)), SCALE)
        for tower, own, wanted in zip(one.towers, seen, target, strict=True):
            everything = set(learned(tower))
            end = {name for name in everything if name.startswith(ENDS[tower.rig.tower])}
            assert reached(tower, agreement) == everything
            assert reached(tower, error_loss(own, wanted, 0.0)) == everything
            assert reached(tower, error_loss(own, wanted, 1.0)) == everything
            only_stream = replace(own, embedding=own.embedding.detach())
            assert reached(tower, error_loss(only_stream, wanted, 1.0)) == everything - end
            entropy = entropy_loss(own.activations, tower.importances)
            assert reached(tower, entropy) == everything - behind_last_activation(tower)
            assert len(behind_last_activation(tower)) == 5


def test_the_sum_is_eq_10(make_rigs):
    training = replace(QUICK, entropy=0.3, error=0.7, stream=0.5)
    one = Optimizer([Tower(r, [4.0, 3.0, 2.0, 1.0]) for r in make_rigs()], SCALE, training)
    assert one.towers[0].importances == [0.4, 0.3, 0.2, 0.1]
    target, seen = ([see(t, q) for t in one.towers] for q in (False, True))
    expected = agreement_loss(*([s.embedding for s in x] for x in (seen, target)), SCALE)
    for tower, own, wanted in zip(one.towers, seen, target, strict=True):
        for i in range(3):
            pair = own.activations[i : i + 2]
            expected = expected + 0.3 * entropy_loss(pair, [tower.importances[i]])
        expected = expected + 0.7 * error_loss(own, wanted, 0.5)
    torch.testing.assert_close(one.loss(BATCH), expected, rtol=1e-5, atol=0)


def test_without_points_nothing_is_lost(make_rigs):
    rigs = [replace(rig, points={}) for rig in make_rigs()]
    one = Optimizer([Tower(r, [1.0] * 4) for r in rigs], SCALE, replace(QUICK, entropy=0.0))
    assert one.loss(BATCH).item() == pytest.approx(0.0, abs=1e-7)


def test_the_errors_by_hand():
    wanted = Seen(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]]), [])
    own = Seen(torch.tensor([[3.0, 3.0]]), torch.tensor([[1.0, 1.0]]), [])
    assert float(error_loss(own, wanted, 0.0)) == pytest.approx(1 / 25)
    assert float(error_loss(own, wanted, 0.5)) == pytest.approx(1 / 25 + 0.5 * 2 / 4)
    assert float(error_loss(wanted, wanted, 1.0)) == 0.0


def test_agreement_is_the_divergence_of_both_directions(normal):
    own, wanted = ([F.normalize(normal(5, 8), dim=-1) for _ in range(2)] for _ in range(2))
    expected = 0.0
    for axis in (0, 1):
        p, q = ((SCALE * a @ b.T).double().softmax(axis) for a, b in (wanted, own))
        expected += float((p * (p / q).log()).sum()) / 5
    assert float(agreement_loss(own, wanted, SCALE)) == pytest.approx(expected, rel=1e-4)
    assert float(agreement_loss(own, own, SCALE)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("counts", [(16, 16), (4, 16), (8, 4)])
def test_entropy_is_that_of_the_partition(normal, counts):
    x, y = (normal(500).abs() * count / 2 - 1 for count in counts)
    table = Dependency(counts)
    table.update(x, y)
    pairs = list(zip((x, y), counts, strict=True))
    assert float(entropy_loss(pairs, [1.0, 9.0])) == pytest.approx(table.value, rel=1e-4)
    assert float(entropy_loss(pairs, [0.25, 9.0])) == pytest.approx(table.value / 4, rel=1e-4)


def test_less_uncertainty_is_less_loss(normal):
    x = torch.rand(600, generator=torch.Generator().manual_seed(0)) * 15
    noise = normal(600)
    losses = [float(entropy_loss([(x, 16), (x + k * noise, 16)], [1.0])) for k in (0, 1, 5)]
    assert losses == sorted(losses)
    assert losses[0] < losses[1] - 0.1 < losses[2] - 0.2
    y = (x + 5 * noise).requires_grad_()
    before = entropy_loss([(x, 16), (y, 16)], [1.0])
    before.backward()
    after = entropy_loss([(x, 16), (y.detach() - 20 * y.grad, 16)], [1.0])
    assert 0 < after.item() < before.item()
    assert soft_assignment(y.detach(), 16).shape == (600, 16)
