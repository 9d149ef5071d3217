# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Losses of units: what starts in the middle of a tower must end where a whole run does."""

import pytest
import torch

from qkit.calibration.observe import Batch
from qkit.errors import DataError
from qkit.graph.layers import list_points
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.probe import Prober
from qkit.pipeline.search import meter as measuring
from qkit.pipeline.search.meter import Meter
from qkit.pipeline.search.units import list_units
from qkit.progress import ignore
from qkit.report.space import divergence


def both_ways(prober, images, texts):
    before, after = (
        prober.scale * i.double() @ t.double().T
        for i, t in ((prober.float.images, prober.float.texts), (images, texts))
    )
    return (divergence(before, after) + divergence(before.T, after.T)) / 2


@pytest.fixture
def expected(student, batches):
    """The losses as a whole run of the tower gives them."""
    prober, losses = Prober(student, batches), []
    for unit in list_units(student):
        names = {layer.name for layer in unit.layers}
        images, texts = (
            prober.encode(tower, lambda layer, role, names=names: layer.name in names)
            for tower in ("image", "text")
        )
        losses.append(both_ways(prober, images, texts))
    return losses, both_ways(prober, *prober.quantized)


def test_one_unit_at_a_time_is_what_a_whole_run_gives(student, batches, expected):
    meter, units = Meter(student, batches), list_units(student)
    assert all(rig.stages for rig in meter.rigs)
    found = meter.alone(units, ignore)
    assert found == pytest.approx(expected[0], rel=1e-3, abs=1e-9)
    assert min(found) >= 0
    assert max(found) > 1e-6
    assert meter.whole() == pytest.approx(expected[1], rel=1e-3)


def test_where_blocks_do_not_follow_each_other_the_tower_runs_whole(
    student, batches, expected, monkeypatch
):
    monkeypatch.setattr(measuring, "follows", lambda *_: False)
    meter = Meter(student, batches)
    assert not any(rig.stages for rig in meter.rigs)
    assert meter.alone(list_units(student), ignore) == pytest.approx(
        expected[0], rel=1e-3, abs=1e-9
    )


def test_it_leaves_the_model_as_it_was(student, batches, pixels):
    meter = Meter(student, batches)
    meter.alone(list_units(student), ignore)
    assert {point.mode for point in list_points(student.model)} == {Mode.OFF}
    forwards = [m for m in student.model.modules() if "forward" in vars(m)]
    assert forwards == []
    with torch.no_grad():
        first = student.model.encode_image(pixels)
    meter.whole()
    with torch.no_grad():
        assert not torch.equal(first, student.model.encode_image(pixels))


def test_an_interrupt_leaves_no_block_replaced(student, batches):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Meter(student, batches).alone(list_units(student), stop)
    assert not [m for m in student.model.modules() if "forward" in vars(m)]


@pytest.mark.parametrize("texts", [None, 1])
def test_probabilities_need_two_of_each(student, batches, texts):
    few = [Batch(batches[0].images, None if texts is None else batches[0].texts[:texts])]
    with pytest.raises(DataError, match="two images and two texts"):
        Meter(student, few)
