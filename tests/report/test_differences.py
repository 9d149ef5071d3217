# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Where runs differ: the largest changes first, gaps where a run has no such layer."""

import csv
import io
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkit.report.differences import compare_layers, differences_csv, differences_dict

INF = math.inf
NAMES = ["base", "more", "less"]


@pytest.fixture
def found(layer):
    """Three runs: a layer changes little, one much, one is exact at times, two are missing."""

    def run(**figures):
        return [layer(name=name, local_sqnr_db=sqnr) for name, sqnr in figures.items()]

    return compare_layers(
        [
            run(little=20.0, much=15.0, exact=INF, gone=9.0),
            run(little=20.5, much=18.0, exact=30.0),
            run(little=19.0, much=5.0, exact=INF, new=40.0),
        ]
    )


def by_name(found):
    return {entry.layer.name: entry for entry in found}


def test_the_largest_difference_comes_first_and_missing_layers_last(found):
    assert [entry.layer.name for entry in found] == ["exact", "much", "little", "gone", "new"]
    assert [entry.spread for entry in found] == [INF, 13.0, 1.5, None, None]


def test_changes_are_against_the_first_run(found):
    assert by_name(found)["much"].changes == (0.0, 3.0, -10.0)
    assert by_name(found)["little"].changes == (0.0, 0.5, -1.0)


def test_a_layer_that_is_exact_in_both_has_not_changed(found):
    exact = by_name(found)["exact"]
    assert exact.sqnr_db == (INF, 30.0, INF)
    assert exact.changes == (0.0, -INF, 0.0)


def test_a_layer_that_one_of_both_has_not_has_no_change(found):
    gone, new = by_name(found)["gone"], by_name(found)["new"]
    assert (gone.sqnr_db, gone.changes) == ((9.0, None, None), (0.0, None, None))
    assert (new.sqnr_db, new.changes) == ((None, None, 40.0), (None, None, None))


def test_a_layer_is_shown_as_the_first_run_has_it(layer):
    first, second = layer(name="a", act_bits=4), layer(name="a", act_bits=8)
    later = layer(name="b", tower="text", block=7)
    found = by_name(compare_layers([[first], [second, later]]))
    assert found["a"].layer is first
    assert found["b"].layer is later


def test_as_csv_a_run_without_the_layer_is_blank_and_exact_is_inf(found):
    rows = list(csv.DictReader(io.StringIO(differences_csv(NAMES, found))))
    assert list(rows[0]) == ["name", "tower", "block", *NAMES]
    cells = {row["name"]: [row[name] for name in NAMES] for row in rows}
    assert cells["much"] == ["15.0", "18.0", "5.0"]
    assert cells["exact"] == ["inf", "30.0", "inf"]
    assert cells["new"] == ["", "", "40.0"]


def test_as_json_missing_and_exact_are_null(found):
    plain = json.loads(json.dumps(differences_dict(NAMES, found), allow_nan=False))
    values = {entry["name"]: entry["sqnr_db"] for entry in plain}
    assert values["much"] == {"base": 15.0, "more": 18.0, "less": 5.0}
    assert values["exact"] == {"base": None, "more": 30.0, "less": None}


decibels = st.floats(-20, 60) | st.just(INF)
runs = st.lists(st.dictionaries(st.sampled_from("abcdef"), decibels), min_size=1, max_size=4)


@given(runs)
def test_changes_are_differences_and_spreads_are_sorted(layer, figures):
    made = [[layer(name=n, local_sqnr_db=v) for n, v in run.items()] for run in figures]
    found = compare_layers(made)
    assert sorted(by_name(found)) == sorted({name for run in figures for name in run})
    assert len(found) == len(by_name(found))
    spreads = [-1.0 if entry.spread is None else entry.spread for entry in found]
    assert spreads == sorted(spreads, reverse=True)
    for name, entry in by_name(found).items():
        assert list(entry.sqnr_db) == [run.get(name) for run in figures]
        known = [value for value in entry.sqnr_db if value is not None]
        assert (entry.spread is None) == (len(known) < 2)
        for value, change in zip(entry.sqnr_db, entry.changes, strict=True):
            if None in (value, entry.sqnr_db[0]):
                assert change is None
            elif value == entry.sqnr_db[0]:
                assert change == 0
            else:
                assert change == value - entry.sqnr_db[0]
                assert abs(change) <= entry.spread
