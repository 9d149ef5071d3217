# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Numbers, bars, heat and sparklines: what they show is what there is."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkit.report.terminal.cells import (
    HEIGHTS,
    LENGTHS,
    add_columns,
    bar,
    db,
    heat,
    percent,
    plain_table,
    sparkline,
    titled,
)

decibels = st.floats(-200, 200) | st.just(math.inf)
widths = st.integers(1, 20)


def eighths(drawn):
    """Length of a bar, in eighths of a cell."""
    return sum(LENGTHS.index(glyph) for glyph in drawn)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, ""), (math.inf, "exact"), (12.345, "12.3"), (-3.0, "-3.0"), (0.0, "0.0")],
)
def test_decibels(value, shown):
    assert db(value) == shown


@pytest.mark.parametrize(
    ("value", "digits", "shown"), [(None, 2, ""), (0.12345, 2, "12.35"), (1.0, 0, "100")]
)
def test_percents(value, digits, shown):
    assert percent(value, digits) == shown


@given(st.lists(decibels, min_size=2), widths)
def test_bars_are_longer_for_worse_and_never_too_long(values, width):
    ordered = [bar(sqnr, width).plain for sqnr in sorted(values)]
    lengths = [eighths(drawn) for drawn in ordered]
    assert lengths == sorted(lengths, reverse=True)
    assert all(len(drawn) <= width for drawn in ordered)


@pytest.mark.parametrize(
    ("sqnr", "shown"), [(math.inf, ""), (40, ""), (20, "████"), (0, "████████"), (-9, "████████")]
)
def test_a_bar_is_full_without_signal_and_empty_at_forty_decibels(sqnr, shown):
    assert bar(sqnr, 8).plain == shown


@given(st.lists(decibels, min_size=1), st.integers(1, 3))
def test_a_heat_strip_has_one_cell_a_value_higher_for_worse(values, width):
    strip = heat(values, width).plain
    assert len(strip) == width * len(values)
    cells = [strip[i : i + width] for i in range(0, len(strip), width)]
    assert all(cell == cell[0] * width and cell.strip() for cell in cells)
    heights = dict(zip(values, (HEIGHTS.index(cell[0]) for cell in cells), strict=True))
    assert all(heights[a] >= heights[b] for a, b in pairwise(sorted(heights)))


@pytest.mark.parametrize(("sqnr", "style"), [(9.9, "red"), (10, "yellow"), (19.9, "yellow")])
def test_colours_only_repeat_what_the_height_says(sqnr, style):
    assert bar(sqnr, 8).style == style
    assert [span.style for span in heat([sqnr]).spans] == [style]
    assert bar(20.0, 8).style == "green"


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=80), widths)
def test_a_sparkline_is_blank_exactly_where_nothing_is(counts, width):
    shown = sparkline(counts, width)
    assert len(shown) == width
    for i, glyph in enumerate(shown):
        part = counts[len(counts) * i // width : len(counts) * (i + 1) // width]
        assert (glyph == " ") == (sum(part) == 0)


def test_a_sparkline_rises_with_the_logarithm():
    assert sparkline([1, 0, 10**3, 10**6], 4) == "▁ ▅█"
    assert sparkline([5] * 64, 8) == "█" * 8
    assert sparkline([0] * 64, 8) == " " * 8


def test_columns_are_right_aligned_but_for_those_on_the_left(lines):
    table = plain_table()
    add_columns(table, ("name", "dB"), left=("name",))
    table.add_row("a", "1.5")
    assert lines(titled("what it is", table)) == ["what it is", "name   dB", "a     1.5"]


def test_where_it_is_tight_the_name_gives_way_and_figures_do_not(lines):
    table = plain_table()
    add_columns(table, ("where", "layer", "SQNR"), left=("where", "layer"))
    table.add_row("image 31", "a.very.long.name.of.a.projection", "-123.4")
    (_, line) = lines(table, width=30)
    assert line.split()[:2] == ["image", "31"]
    assert line.endswith("-123.4")
    assert " a.very.long" in line
    assert "…" in line
