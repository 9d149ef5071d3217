# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The walk through a tower, block by block: what each is searched on, and what stays behind."""

from functools import partial

import pytest
import torch

from calibrators.entropy.blocks import BlockSearch
from calibrators.entropy.search import search
from qkit.nn.tensor_quantizer import Mode

HALVES = (range(2), range(2, 4))
DESCENT = partial(search, limit=1, sweeps=1, restarts=0)


@pytest.fixture
def walk(surveyed):
    """A walk through a tower whose first half is searched quickly."""

    def walk(tower="image", find=DESCENT):
        found = surveyed(tower, samples=4)
        given = (found.rig, found.session, found.survey, (0.98,), (0.9,), False, True)
        return BlockSearch(*given, search=find), found

    return walk


def relative(found, stage, quantized):
    """Error of a quantized stream at the end of a stage, relative to the float stream there."""
    stages = found.rig.stages[: stage + 1]
    exact = found.rig.run(stages, found.rig.enter(quantized=False), quantized=False)
    importance = found.survey.importances[stage]
    pairs = zip(quantized, exact, strict=True)
    off = sum(importance.error(i, a - b) for i, (a, b) in enumerate(pairs))
    return off / sum(importance.error(i, x) for i, x in enumerate(exact))


@pytest.mark.parametrize("tower", ["image", "text"])
def test_the_errors_told_are_those_of_the_tower_run_from_its_start(walk, tower):
    search_blocks, found = walk(tower)
    for block in HALVES:
        best = search_blocks.run(block)
        stages = found.rig.stages[: block.stop]
        stream = found.rig.run(stages, found.rig.enter(quantized=True), quantized=True)
        assert best.error == pytest.approx(relative(found, block.stop - 1, stream), rel=1e-5)
        assert best.error <= best.start
        assert best.block == block


def test_what_was_chosen_is_installed_and_belongs_to_the_block(walk):
    search_blocks, found = walk()
    for block in HALVES:
        best = search_blocks.run(block)
        inside = {p.point for i in block for p in found.rig.stages[i].points}
        assert best.chosen
        assert best.chosen.keys() <= inside
        for point, q in best.chosen.items():
            assert all(map(torch.equal, found.rig.points[point].qparams, q))
    assert {point.mode for point in found.rig.points.values()} == {Mode.OFF}


def test_a_search_that_ends_on_a_bad_choice_leaves_none_of_it(walk):
    """The last choice tried is rarely the best: that one must be put back."""

    def first_of_all(counts, error):
        found = search(counts, error, 1, 1, 0)
        error(tuple(count - 1 for count in counts), 1e9)
        return found._replace(choice=(0,) * len(counts), error=found.start)

    search_blocks, found = walk(find=first_of_all)
    before = {point: q.qparams for point, q in found.rig.points.items()}
    best = search_blocks.run(HALVES[0])
    assert best.error == best.start
    for point, q in best.chosen.items():
        assert all(map(torch.equal, before[point], found.rig.points[point].qparams))
        assert all(map(torch.equal, before[point], q))


def test_wide_searches_points_of_more_bits_too(surveyed):
    found = surveyed()
    points = found.rig.points
    assert {point.spec.bits for point in points.values()} == {4, 8}
    chosen = []
    for wide in (False, True):
        given = (found.rig, found.session, found.survey, (0.98,), (), wide, True, DESCENT)
        chosen.append(BlockSearch(*given).run(range(1)).chosen)
    narrow, everything = chosen
    assert {points[point].spec.bits for point in narrow} == {4}
    assert {points[point].spec.bits for point in everything} == {4, 8}
    assert narrow.keys() < everything.keys()
