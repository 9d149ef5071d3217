# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Budgets, choices and times as a user writes them, and every mistake in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkit.allocation.budget import Budget, parse_budget, parse_budgets
from qkit.allocation.choices import Bits, parse_choices
from qkit.allocation.times import read_times, time_of
from qkit.errors import SearchError


@pytest.mark.parametrize(
    ("text", "kind", "most"),
    [
        ("bits=5", "bits", 5.0),
        (" bits = 4.25 ", "bits", 4.25),
        ("size=30MB", "size", 30e6),
        ("size=30 mb", "size", 30e6),
        ("size=2MiB", "size", 2.0**21),
        ("size=900kB", "size", 900e3),
        ("size=1e7B", "size", 1e7),
        ("bitops=.5G", "bitops", 0.5e9),
        ("latency=5ms", "latency", 5e-3),
    ],
)
def test_budgets(text, kind, most):
    found = parse_budget(text)
    assert found.kind == kind
    assert found.most == pytest.approx(most)
    assert parse_budget(str(found)).most == pytest.approx(most, rel=1e-5)


@pytest.mark.parametrize(
    ("texts", "fact"),
    [
        (["bit=5"], "unknown budget 'bit=5'. Did you mean 'bits'.*bits=5, size=30MB"),
        (["5"], "unknown budget '5'. Write one of"),
        (["bits"], "'bits' has no amount that can be read. Write bits=5; units: none"),
        (["bits=five"], "no amount"),
        (["bits=5MB"], "no amount"),
        (["bits=-1"], "no amount"),
        (["bits=0"], "'bits=0' leaves nothing"),
        (["size=30"], "Write size=30MB; units: B, kB, MB"),
        (["latency=5"], "Write latency=5ms"),
        (["bits=5", "bits=6"], "budget bits is given 2 times"),
        ([], "no budget is given"),
    ],
)
def test_mistakes_in_budgets(texts, fact):
    with pytest.raises(SearchError, match=fact):
        parse_budgets(texts)


@given(st.integers(2, 8), st.integers(2, 8))
def test_choices_read_what_they_write(weight, given_input):
    bits = Bits(weight, given_input)
    assert parse_choices(f" {bits} ") == (bits,)


@pytest.mark.parametrize("text", ["4", "4/", "/8", "4/9", "1/8", "a/b", "4/8,", "", "4/8/8"])
def test_mistakes_in_choices(text):
    with pytest.raises(SearchError, match="no pair of bits"):
        parse_choices(text)


def test_a_choice_is_named_once():
    with pytest.raises(SearchError, match="4/8 is named twice"):
        parse_choices("4/8,8/8,4/8")


@pytest.fixture
def times(tmp_path):
    def write(text):
        path = tmp_path / "times.toml"
        path.write_text(text)
        return read_times(path)

    return write


def test_a_tower_may_have_times_of_its_own(times):
    found = times('"4/8" = 20\n"8/8" = 30.5\n[text]\n"4/8" = 10\n')
    assert time_of(found, "image", Bits(4, 8)) == 20
    assert time_of(found, "text", Bits(4, 8)) == 10
    assert time_of(found, "text", Bits(8, 8)) == 30.5
    with pytest.raises(SearchError, match="no time of 6/6 in the image tower"):
        time_of(found, "image", Bits(6, 6))


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("4/8 = 3", "no valid TOML"),
        ('"4-8" = 3', "'4-8' is no pair of bits"),
        ('"4/8" = "fast"', "'fast' is no time"),
        ('"4/8" = 0', "0 is no time"),
        ('"4/8" = true', "True is no time"),
        ("text = 3", "text = 3 is no table"),
        ('[texts]\n"4/8" = 3', "is no time"),
    ],
)
def test_mistakes_in_times(times, text, fact):
    with pytest.raises(SearchError, match=fact):
        times(text)


def test_a_missing_file_of_times(tmp_path):
    with pytest.raises(SearchError, match=r"none\.toml cannot be read: No such file"):
        read_times(tmp_path / "none.toml")


def test_a_budget_names_itself():
    assert str(Budget("size", 3e7)) == "size=30MB"
