# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What stands on the page that compares runs."""

import math
import re
from dataclasses import replace

import pytest

from qkit.report.page.compare import comparison_page

MINUS, INFINITE = "\N{MINUS SIGN}", "\N{INFINITY}"
ROWS = "#layer-table > tbody:not([hidden]) > tr"


@pytest.fixture(scope="session")
def other(report):
    """Better by 3 dB, quantizes what the first leaves in float, lacks a layer and evaluations."""
    layers = tuple(
        replace(x, local_sqnr_db=12.0 if math.isinf(x.local_sqnr_db) else x.local_sqnr_db + 3 + k)
        for k, x in enumerate(report.layers[:-1])
    )
    metric = replace(report.metrics[0], quantized={"top1": 0.8, "top5": 0.9}, samples=500)
    return replace(
        report,
        label="W6A6",
        layers=layers,
        metrics=(metric,),
        blocks=tuple(replace(b, cumulative_sqnr_db=20.0) for b in report.blocks),
        size={"float_bytes": 98_456_580},
    )


@pytest.fixture(scope="session")
def html(report, other, bare, nasty):
    return comparison_page({"first": report, nasty: other, "empty": bare})


@pytest.fixture(scope="module")
def seen(show, html):
    return show(html)


def test_the_head_lists_the_runs(seen, nasty):
    rows = seen.cells(".runs tbody tr")
    assert [row[0] for row in rows] == ["first", nasty, "empty"]
    assert rows[0][3:6] == ["98.5", "13.1", "7.5"]
    assert rows[1][3:6] == ["98.5", "", ""]
    assert rows[2][8:] == ["", ""]


def test_figures_stand_side_by_side_with_blanks(seen):
    rows = {row[-7]: row[-6:] for row in seen.cells("#accuracy tbody tr")[:11]}
    assert rows["top-1, %"] == ["85.6", "71.2", "80.0", "+8.8", "", ""]
    assert rows["top-5, %"] == ["98.3", "93.1", "90.0", f"{MINUS}3.1", "", ""]
    assert rows["logit KL, nats"] == ["", "0.3000", "0.3000", "+0.0000", "", ""]
    assert rows["ECE, %"] == ["4.1", "7.1", "7.1", "+0.0", "", ""]
    heads = seen.texts("#accuracy tbody th")
    assert heads[0].startswith("classes:imagenet-sample1000 or 500 images")
    assert len(heads) == 3


def test_float_figures_that_differ_are_said(report, html):
    odd = replace(report.metrics[0], float={"top1": 0.5, "top5": 0.6})
    differing = comparison_page({"a": report, "b": replace(report, metrics=(odd,))})
    assert [text.count("float figures differ") for text in (html, differing)] == [0, 1]


def test_layers_that_differ_most_come_first(seen):
    rows = seen.cells(ROWS)
    assert len(rows) == 15
    infinite = [f"{MINUS}{INFINITE}", "", "", INFINITE]
    assert rows[0][2:] == ["visual.conv1", "conv", "exact", "12.0", *infinite]
    assert rows[1][4:] == ["14.2", "30.2", "+16.0", "", "", "16.0"]
    assert rows[-1][2:] == ["text_projection", "projection", "9.8", "", "", "", "", ""]


def test_layers_sort_by_run_and_difference(seen):
    spread = seen.page.get_by_role("button", name="spread, dB")
    assert spread.locator("..").get_attribute("aria-sort") == "descending"
    spread.focus()
    seen.page.keyboard.press("Enter")
    found = [row[-1] for row in seen.cells(ROWS)]
    assert found == [f"{k:.1f}" for k in range(4, 17)] + [INFINITE, ""]
    assert spread.locator("..").get_attribute("aria-sort") == "ascending"
    seen.page.get_by_role("button", name="difference").first.click()
    assert seen.cells(ROWS)[0][6] == f"{MINUS}{INFINITE}"


def test_layers_are_filtered(seen):
    kind = seen.page.get_by_label("Kind")
    kind.select_option("conv")
    assert [row[2] for row in seen.cells(ROWS)] == ["visual.conv1"]
    kind.select_option("")
    assert len(seen.cells(ROWS)) == 15


def test_depth_shows_every_run(seen, report):
    chart = seen.chart("[data-chart=depth]")
    assert len(chart["data"]) == 3 * 2 * 2
    piled = [trace for trace in chart["data"] if trace["name"].endswith("piled up")]
    assert piled[0]["y"] == [b.cumulative_sqnr_db for b in report.blocks[:3]]
    assert piled[1]["y"] == [20.0] * 3
    assert piled[2]["y"] == []


def test_names_of_runs_are_text(seen, nasty):
    legend = seen.page.locator("[data-chart=depth] .legendtext").all_text_contents()
    assert f"{nasty} piled up" in legend
    assert seen.page.locator("b", has_text="no markup").count() == 0
    assert nasty in seen.page.title()


def test_dark_differs_from_light(seen):
    light = look(seen)
    with seen.scheme("dark"):
        pairs = list(zip(light, look(seen), strict=True))
    assert all(light != dark for light, dark in pairs)


def look(seen):
    background = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
    chart = seen.chart("[data-chart=depth]")
    return background, chart["font"], chart["data"][0]["line"]["color"]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_bare_reports_say_what_is_missing(bare, count):
    html = comparison_page({f"run {number}": bare for number in range(count)})
    assert re.findall(r'<p class="note">(No .*?)</p>', html) == [
        "No run was evaluated.",
        "No blocks were measured.",
        "No layers were measured.",
    ]


def test_a_phone_scrolls_tables_and_never_the_page(seen):
    with seen.phone():
        assert seen.page.evaluate("document.documentElement.scrollWidth") == 390
