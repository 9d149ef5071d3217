# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Which layers are shown, in which order, and what is said where that cannot be."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkit.calibration.protocol import StageNote
from qkit.errors import DataError
from qkit.report.analyses import Analyses, LayerSensitivity, Sensitivity
from qkit.report.partition import PartitionReport
from qkit.report.select import ORDERS, SORTS, Selection, select, select_stages, worst_first
from qkit.spec import TOWERS

BLOCK = "transformer.resblocks"


@pytest.fixture(scope="module")
def report(model_report, layer, sdpa, floating):
    """Five layers of two towers; no two orders of them are the same."""
    layers = (
        floating(clipped=0.0),
        layer(name=f"visual.{BLOCK}.0.mlp.c_fc", block=0, made=0.4, weights=30, clipped=0.02),
        sdpa(
            name=f"visual.{BLOCK}.0.attn.sdpa",
            block=0,
            local_sqnr_db=9.0,
            cumulative_sqnr_db=8.5,
            made=0.9,
            cosine=0.98,
            clipped=None,
        ),
        layer(
            name=f"{BLOCK}.0.mlp.c_fc",
            tower="text",
            block=0,
            local_sqnr_db=30.0,
            cumulative_sqnr_db=7.0,
            weight_sqnr_db=25.0,
            made=0.1,
            cosine=0.8,
            weights=5,
            clipped=0.5,
        ),
        layer(
            name="text_projection",
            tower="text",
            kind="projection",
            block=None,
            weight_sqnr_db=12.0,
            local_sqnr_db=20.0,
            cumulative_sqnr_db=2.0,
            made=0.6,
            cosine=0.99,
            weights=50,
            clipped=0.3,
        ),
    )
    return model_report(layers=layers)


@pytest.fixture
def measured(report, space):
    """The report after a sensitivity analysis that did not get to the last layer."""
    found = tuple(
        LayerSensitivity(layer.name, space(logit_kl=kl), space())
        for layer, kl in zip(report.layers, (0.0, 0.2, 0.1, 0.7), strict=False)
    )
    return replace(report, analyses=Analyses(Sensitivity("images:x", "d", 8, space(), found)))


def numbers(report, **wanted):
    """Places of the layers selected, in their order."""
    return [report.layers.index(layer) for layer in select(report, Selection(**wanted))]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"tower": "image"}, [0, 1, 2]),
        ({"tower": "text"}, [3, 4]),
        ({"kind": "attention"}, [2]),
        ({"kind": "linear"}, [1, 3]),
        ({"kind": "linear", "tower": "text"}, [3]),
        ({"layer": "c_fc"}, [1, 3]),
        ({"layer": "*.mlp.*"}, [1, 3]),
        ({"layer": "visual.*.0."}, [1, 2]),
        ({"layer": "text_projection"}, [4]),
        ({"layer": "?ext_pro*ion"}, [4]),
        ({"layer": "c_fc", "tower": "image"}, [1]),
        ({"top": 2}, [0, 1]),
        ({"top": None}, [0, 1, 2, 3, 4]),
    ],
)
def test_filters_and_globs_that_match_anywhere(report, wanted, expected):
    assert numbers(report, sort="order", **wanted) == expected


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("alone", [2, 1, 4, 3, 0]),
        ("arrives", [4, 3, 2, 1, 0]),
        ("makes", [2, 4, 1, 3, 0]),
        ("weight", [4, 1, 3, 0, 2]),
        ("cosine", [3, 1, 2, 4, 0]),
        ("clip", [3, 4, 1, 0, 2]),
        ("size", [0, 4, 1, 3, 2]),
        ("name", [4, 3, 0, 2, 1]),
        ("order", [0, 1, 2, 3, 4]),
    ],
)
def test_each_order_has_its_worst_or_largest_first(report, sort, expected):
    assert numbers(report, sort=sort) == expected


def test_most_sensitive_first_and_what_was_not_measured_last(measured):
    assert numbers(measured, sort="sensitivity") == [3, 1, 2, 0, 4]


def test_every_order_is_tried_here():
    assert set(ORDERS) == {*SORTS, "order", "sensitivity"}
    assert len(SORTS) == 8


def test_sensitivity_as_order_needs_the_analysis(report):
    with pytest.raises(DataError, match=r"not measured yet.*Add --sensitivity"):
        select(report, Selection(sort="sensitivity"))


@pytest.mark.parametrize(
    ("wanted", "meant"),
    [
        ({"tower": "images"}, "unknown tower 'images'. Did you mean 'image'?"),
        ({"kind": "atention"}, "unknown kind 'atention'. Did you mean 'attention'?"),
        ({"sort": "sensitive"}, "unknown sort 'sensitive'. Did you mean 'sensitivity'?"),
        ({"sort": "zzz"}, "unknown sort 'zzz'. Known: alone, arrives,"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(report, wanted, meant):
    with pytest.raises(DataError) as raised:
        select(report, Selection(**wanted))
    assert str(raised.value).startswith(meant)


def test_nothing_that_matches_is_refused_with_what_was_asked_for(report):
    with pytest.raises(DataError, match=r"--tower text --layer conv1.*--all"):
        select(report, Selection(tower="text", layer="conv1"))


decibels = st.floats(-20, 60) | st.just(math.inf)


@given(st.lists(st.tuples(decibels, st.sampled_from("abcd"))))
def test_worst_first_is_sorted_and_loses_nothing(layer, figures):
    layers = [layer(local_sqnr_db=sqnr, name=name) for sqnr, name in figures]
    found = worst_first(layers)
    assert sorted(map(id, found)) == sorted(map(id, layers))
    places = [(each.local_sqnr_db, each.name) for each in found]
    assert all(one <= other for one, other in pairwise(places))


def test_stages_are_those_of_the_towers_of_the_layers(model_report, layer):
    stages = tuple(StageNote("b.0", tower, 0, (), None, 0, 0.2, 0.1) for tower in TOWERS)
    report = model_report(partition=PartitionReport(stages, dict.fromkeys(TOWERS, 1.5)))
    layers = [layer(tower=tower) for tower in TOWERS]
    assert select_stages(report, layers) == list(stages)
    assert select_stages(report, layers[1:]) == [stages[1]]


def test_no_stages_are_an_error_that_says_why(model_report, layer):
    with pytest.raises(
        DataError, match=r"with W3A4 attn8, mse, which.*--method entropy, in its default mode\.$"
    ):
        select_stages(model_report(), [layer()])
    stage = StageNote("b.0", "text", 0, (), None, 0, 0.2, 0.1)
    for stages in ((stage,), ()):
        report = model_report(partition=PartitionReport(stages, dict.fromkeys(TOWERS, 1.5)))
        with pytest.raises(DataError, match=r"in the tower image: .*without --blocks\.$"):
            select_stages(report, [layer()])
