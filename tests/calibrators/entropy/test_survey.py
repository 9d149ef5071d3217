# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The survey of a tower: what every layer chooses alone, and what is measured between them."""

import math

import pytest
import torch
from torch import nn

from calibrators.entropy.survey import Surveyor, positions
from qkit.calibration.bench import Rig
from qkit.calibration.session import CalibrationSession
from qkit.clip.attention import QuantAttentionPool
from qkit.graph.layers import Layer, list_layers
from qkit.nn.attention import QuantSDPA
from qkit.nn.linear import QuantLinear
from qkit.numerics import qparams_from_range, quantize, token_qparams
from qkit.recipe import Recipe, SchemeRule
from qkit.spec import Granularity, PointId, QuantSpec, Range, Scheme, TensorStats


def linear(spec, x):
    """A layer whose input is rounded by ``spec`` to the range of ``x``."""
    module = QuantLinear.from_float(nn.Linear(x.shape[-1], 3))
    module.attach("fc", Scheme(input=spec))
    if module.input_quantizer is not None and not spec.dynamic:
        flat = x.flatten(0, -2)
        axes = 0 if spec.granularity is Granularity.CHANNEL else (0, 1)
        seen = Range(flat.amin(axes), flat.amax(axes))
        module.input_quantizer.set_qparams(qparams_from_range(seen, spec))
    return Layer("fc", "image", "linear", module)


def places(spec, x):
    return positions([linear(spec, x)], {"fc": [x[:1], x[1:]]})


@pytest.mark.parametrize("granularity", list(Granularity))
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_positions_round_to_the_integers_that_are_stored(bits, symmetric, granularity, normal):
    x = normal(4, 5, 6) + 0.3
    spec = QuantSpec(bits, symmetric, granularity)
    found = places(spec, x)
    assert found.levels == 2**bits
    assert [len(part) for part in found.values] == [1, 3]
    layer = linear(spec, x)
    q = token_qparams(x, spec) if spec.dynamic else layer.module.input_quantizer.qparams
    axis = -1 if granularity is Granularity.CHANNEL else None
    expected = quantize(x, q, spec, axis) - spec.quant_min
    together = torch.cat(found.values)
    off = together.clamp(0, found.levels - 1) - expected
    assert float(off.abs().max()) < 0.501
    assert -1 <= float(together.min()) <= float(together.max()) <= found.levels


@pytest.mark.parametrize("granularity", list(Granularity))
def test_positions_do_not_depend_on_the_units(granularity, normal):
    x = normal(3, 5, 6)
    spec = QuantSpec(4, granularity=granularity)
    one, other = places(spec, x), places(spec, x * 1024)
    assert all(map(torch.equal, one.values, other.values))


def test_without_an_input_point_every_token_has_its_own_sixteen_levels(normal):
    x = normal(3, 5, 6)
    found = positions([linear(None, x)], {"fc": [x]})
    expected = places(QuantSpec(4, granularity=Granularity.TOKEN), x)
    assert found.levels == 16
    torch.testing.assert_close(found.values[0], torch.cat(expected.values))


@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_number_for_every_pair_and_a_weight_for_every_stage(surveyed, tower, weighted):
    found = surveyed(tower, weighted=weighted)
    assert len(found.survey.dependencies) == len(found.rig.stages) - 1 == 3
    assert all(0 < value <= math.log(16) for value in found.survey.dependencies)
    assert len(found.survey.importances) == len(found.rig.stages)
    plain = [bool((i.channels == 1).all()) for i in found.survey.importances]
    assert plain == [not weighted] * 4


def test_layers_choose_all_linear_inputs_and_weights_and_install_them(surveyed):
    found = surveyed("image")
    roles = {(point.module.rsplit(".")[-1], point.role) for point in found.survey.chosen}
    assert ("conv1", "input") in roles
    assert ("attn", "input") in roles  # what q, k and v share
    assert ("proj", "weight") in roles
    assert not {role for _, role in roles} - {"input", "weight"}
    for point, q in found.survey.chosen.items():
        assert all(map(torch.equal, found.rig.points[point].qparams, q))


def test_per_channel_inputs_are_left_to_the_tensor(surveyed):
    found = surveyed("image", act_granularity="channel")
    assert {point.role for point in found.survey.chosen} == {"weight"}


def test_fewer_rows_choose_otherwise_but_the_same_every_time(surveyed):
    found = surveyed("image")

    def scales(rows, seed):
        survey = Surveyor(found.rig, found.session, rows, seed).run(weighted=False)
        return torch.cat([q.scale.flatten() for q in survey.chosen.values()])

    assert torch.equal(scales(8, 0), scales(8, 0))
    assert not torch.equal(scales(8, 0), scales(8, 1))
    assert torch.equal(scales(9999, 0), scales(9999, 0))


def test_an_input_that_several_layers_read_is_judged_where_all_of_it_arrives(normal):
    """A ResNet's pooling asks with the mean token only, but k and v read every token."""
    pool = QuantAttentionPool(2)
    for name in ("k_proj", "q_proj", "v_proj", "c_proj"):
        setattr(pool, name, QuantLinear.from_float(nn.Linear(8, 8)).requires_grad_(False))
    pool.positional_embedding = nn.Parameter(torch.zeros(17, 8))
    pool.sdpa = QuantSDPA()
    model = nn.Module()
    model.visual = pool
    spec = QuantSpec(4)
    pool.attach_inputs("visual", spec, None)
    layers = list_layers(model, {"image": ("visual",)})
    x = normal(3, 8, 4, 4)  # its mean over the 16 places is four times smaller
    rig = Rig(
        tower="image",
        stages=(),
        outside=layers,
        samples=[x],
        encode=pool,
        points={pool.input_quantizer.point: pool.input_quantizer},
        modules=model.modules,
    )
    point = PointId("visual", "input")
    stats = {point: TensorStats(x.min(), x.max())}
    survey = Surveyor(rig, CalibrationSession({point: spec}, stats), 512, 0).run(weighted=False)
    scale, _ = survey.chosen[point]
    assert float(scale * 15) > 0.5 * float(x.max() - x.min())


def test_recipe_of_weights_only(open_bench):
    rule = SchemeRule(scheme=Scheme(QuantSpec(4, True, Granularity.CHANNEL)))
    session = open_bench(Recipe(rules=(rule,)))
    rig = session.bench.rigs("half", 4)[0]
    survey = Surveyor(rig, session, 64, 0).run(weighted=False)
    inside = {p for p in rig.points if p.role == "weight"}
    assert survey.chosen.keys() == inside
    assert len(survey.dependencies) == 3
