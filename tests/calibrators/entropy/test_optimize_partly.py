# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Learning where some inputs stay in float: neighbours stay neighbours, or have no entropy."""

import pytest
import torch

from calibrators.entropy.losses import entropy_loss
from calibrators.entropy.optimize import Optimizer, Tower, Training
from calibrators.entropy.survey import positions
from qkit.calibration.learn import frozen
from qkit.calibration.running import recorded, switched
from qkit.recipe import Recipe, SchemeRule
from qkit.spec import Granularity, QuantSpec, Scheme

W4 = QuantSpec(4, True, Granularity.CHANNEL)
A4, A8 = QuantSpec(4), QuantSpec(8)
TABLE = SchemeRule("token_embedding", scheme=Scheme())
REST = SchemeRule(scheme=Scheme(W4, A4, A8))
TRAINING = Training(epochs=1, batch=4, rate=1e-2, entropy=1.0, error=1.0, stream=1.0, seed=0)


def recipe(*patterns, scheme):
    rules = [SchemeRule(pattern, scheme=scheme) for pattern in patterns]
    return Recipe(rules=(TABLE, *rules, *([] if "*" in patterns else [REST])))


PARTLY = {
    "all": recipe(scheme=Scheme()),
    "weights only": recipe("*", scheme=Scheme(weight=W4)),
    "attention only": recipe("*", scheme=Scheme(attention=A8)),
    "no first input of an MLP": recipe("*.mlp.c_fc", scheme=Scheme(weight=W4)),
    "no input of an attention": recipe("*.[qkv]_proj", scheme=Scheme(weight=W4)),
    "no first MLP": recipe("*.0.mlp.*", scheme=Scheme(weight=W4)),
}


@pytest.fixture(params=PARTLY)
def rigs(make_rigs, request):
    return make_rigs(PARTLY[request.param], bits=None)


def first_activations(rig):
    """Levels of the values at the stages' first rounded inputs, as the partition sees them."""
    for stage in rig.stages:
        with recorded(stage.layers) as inputs, switched(rig.points.values(), True), torch.no_grad():
            rig.encode(rig.samples[0][:1])
        found = positions(stage.layers, inputs)
        yield found.values[0].flatten().round(), found.levels


def test_everything_that_counts_is_learned(rigs):
    one = Optimizer([Tower(rig, [1.0] * 4) for rig in rigs], 20.0, TRAINING)
    with frozen(rigs):
        one.loss(torch.arange(4)).backward()
    for tower in one.towers:
        steps = [*tower.learner.steps, *(t for pair in tower.learner.affines for t in pair)]
        assert steps
        assert all(t.grad is not None and bool((t.grad != 0).any()) for t in steps)


def test_it_looks_at_the_activations_that_the_partition_looks_at(rigs):
    """Those that a point rounds; the partition gives the others a grid of their own."""
    for rig in rigs:
        seen = Tower(rig, [1.0] * 4).see(rig.samples[0], quantized=True).activations
        for found, stage, expected in zip(seen, rig.stages, first_activations(rig), strict=True):
            if not any(layer.input_quantizers for layer in stage.layers):
                assert found is None
                continue
            assert found[1] == expected[1]
            last = found[1] - 1
            levels = (values.round().clamp(0, last) for values in (found[0], expected[0]))
            assert torch.equal(*levels)


@pytest.mark.parametrize("kept", [(0, 1, 2, 3), (0, 1), (1, 2), (0, 2), (3,), ()])
def test_each_pair_of_neighbours_has_the_importance_of_its_first(normal, kept):
    seen = [(normal(100).abs() * 5, 16) if i in kept else None for i in range(4)]
    pairs = [i for i in range(3) if {i, i + 1} <= set(kept)]
    expected = sum(float(entropy_loss(seen[i : i + 2], [1.0])) * (i + 1) for i in pairs)
    found = entropy_loss(seen, [1.0, 2.0, 3.0, 4.0])
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert (float(found) > 0) == bool(pairs)


def test_neighbours_of_other_shapes_count_by_the_second_alone(normal):
    x, y, other = normal(100).abs() * 5, normal(400).abs() * 5, normal(300)
    found = [float(entropy_loss([(first, 16), (y, 16)], [1.0])) for first in (x, other)]
    constant = float(entropy_loss([(torch.zeros(400), 16), (y, 16)], [1.0]))
    assert found == pytest.approx([constant] * 2, rel=1e-5)
