# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Charts: they show the data, and follow the reader's colours and width."""

import math
from dataclasses import replace

import pytest

from qkit.report.page.report import report_page

DEPTH = "[data-chart=depth]"


@pytest.fixture(scope="module")
def seen(show, report):
    return show(report_page(report, {}))


def open_layer(seen, report, name):
    """Selector of what a layer's row opens to."""
    button = seen.page.locator(f"tbody[data-name='{name}'] button")
    if button.get_attribute("aria-expanded") == "false":
        button.click()
    index = [layer.name for layer in report.layers].index(name)
    return f"#layer-{index}"


def uprights(trace):
    assert trace["y"][:3] == [0, 1, None]
    return trace["x"][::3]


def test_depth_shows_both_towers_and_leaves_gaps(seen, report):
    chart = seen.chart(DEPTH)
    found = [(t.get("xaxis", "x"), t["name"], t["x"], t["y"]) for t in chart["data"]]
    expected = []
    for axis, tower in (("x", "image"), ("x2", "text")):
        blocks = [block for block in report.blocks if block.tower == tower]
        x = [block.index for block in blocks]
        local = [None if math.isinf(b.local_sqnr_db) else b.local_sqnr_db for b in blocks]
        expected.append((axis, "piled up", x, [b.cumulative_sqnr_db for b in blocks]))
        expected.append((axis, "made here", x, local))
    assert found == expected
    notes = [(n["text"], n["xref"], n["x"]) for n in chart["layout"]["annotations"]]
    assert ("exact", "x2", 1) in notes
    assert len(notes) == 3
    assert seen.page.locator(f"{DEPTH} .scatterlayer .trace").count() == 4
    assert seen.page.locator(f"{DEPTH} .point").count() == 11


def test_depth_is_a_table_too(seen):
    seen.page.locator("#depth summary").click()
    rows = seen.cells("#depth tbody tr")
    assert rows[0] == ["image", "0", "18.0", "15.0", "0.9900"]
    assert rows[4] == ["text", "1", "exact", "12.0", "0.9800"]


def test_histograms_show_every_bin_and_the_levels_of_a_coarse_grid(seen, report):
    sheet = open_layer(seen, report, "visual.transformer.resblocks.0.mlp.c_fc")
    chart = seen.chart(f"{sheet} [data-tensor='1']")
    values, levels, ends = chart["data"]
    operand = report.layers[2].tensors[1]
    assert values["y"] == list(operand.values.counts)
    assert values["x"][0] == pytest.approx(-1.4 + 7.4 / 128)
    assert levels["name"] == "16 levels"
    assert uprights(levels) == pytest.approx([-1.25 + 0.25 * k for k in range(16)])
    assert uprights(ends) == [-1.25, 2.5]
    assert chart["layout"]["yaxis"]["type"] == "log"
    assert seen.page.locator(f"{sheet} [data-tensor='1'] .bars .point path").count() == 64
    assert seen.page.locator(f"{sheet} [data-tensor='1'] .scatterlayer .trace").count() == 2


def test_per_channel_levels_are_the_median_channels_around_zero(seen, report):
    sheet = open_layer(seen, report, "visual.transformer.resblocks.0.mlp.c_fc")
    _, levels, ends = seen.chart(f"{sheet} [data-tensor='0']")["data"]
    assert uprights(levels) == pytest.approx([0.02 * k for k in range(-8, 8)])
    assert uprights(ends) == pytest.approx([-0.24, 0.21])
    assert "Each channel has its own" in seen.page.locator(sheet).text_content()


def test_a_fine_grid_shows_its_ends_and_one_by_token_none(seen, report):
    sheet = open_layer(seen, report, "visual.proj")
    _, ends = seen.chart(f"{sheet} [data-tensor='0']")["data"]
    assert ends["name"] == "grid ends"
    assert len(seen.chart(f"{sheet} [data-tensor='1']")["data"]) == 1
    assert "follows each token" in seen.page.locator(f"{sheet} figcaption").nth(2).text_content()


def test_errors_and_trials_are_drawn(seen, report):
    sheet = open_layer(seen, report, "text_projection")
    (bars,) = seen.chart(f"{sheet} [data-chart=trials]")["data"]
    trials = report.layers[-1].trials
    assert dict(zip(bars["y"], bars["x"], strict=True)) == trials
    assert seen.page.locator(f"{sheet} .trials .bars .point").count() == len(trials)
    (errors,) = seen.chart(f"{sheet} [data-chart=errors]")["data"]
    assert errors["y"] == list(report.layers[-1].errors.counts)


def test_a_layer_without_distributions_opens_without_charts(seen, report):
    sheet = open_layer(seen, report, "visual.conv1")
    assert seen.page.locator(sheet).is_visible()
    assert seen.page.locator(f"{sheet} [data-chart]").count() == 0


@pytest.fixture(scope="module")
def odd(show, report, nasty):
    """A dark page with 40 layers in its sensitivity, the worst of which has a nasty name."""
    found = report.analyses.sensitivity
    names = [f"layer.{k}" for k in range(39)] + [nasty]
    many = tuple(
        replace(found.layers[0], name=name, alone=replace(found.whole, logit_kl=k / 100))
        for k, name in enumerate(names)
    )
    analyses = replace(report.analyses, sensitivity=replace(found, layers=many))
    last = replace(report.layers[-1], name=nasty, trials={nasty: 1.0})
    changed = replace(report, layers=(*report.layers[:-1], last), analyses=analyses)
    return show(report_page(changed, {}), color_scheme="dark")


def test_sensitivity_shows_the_worst_thirty(odd, report, nasty):
    chart = odd.chart("[data-chart=sensitivity]")
    alone, spared, whole = chart["data"]
    assert alone["x"] == pytest.approx([k / 100 for k in range(10, 40)])
    assert len(spared["x"]) == 30
    assert whole["x"] == [report.analyses.sensitivity.whole.logit_kl] * 2
    assert odd.page.locator("[data-chart=sensitivity] .bars .point").count() == 30
    labels = odd.texts("[data-chart=sensitivity] .ytick text")
    assert labels == [*(f"layer.{k}" for k in range(10, 39)), nasty]


def test_names_in_charts_are_text(odd, nasty):
    odd.page.locator("tbody button[aria-expanded]", has_text="no markup").click()
    assert odd.texts("[data-chart=trials]:visible .ytick text") == [nasty]


def test_a_dark_page_has_dark_charts(odd, seen):
    assert odd.chart(DEPTH)["font"] != seen.chart(DEPTH)["font"]
    colours = [page.chart(DEPTH)["data"][0]["line"]["color"] for page in (odd, seen)]
    assert colours[0] != colours[1]


def test_open_charts_follow_a_change_of_scheme(seen, report):
    before = look(seen, report)
    with seen.scheme("dark"):
        pairs = list(zip(before, look(seen, report), strict=True))
    assert all(light != dark for light, dark in pairs)
    assert look(seen, report) == before


def look(seen, report):
    """Colours of the page, of a chart's text and bars, and of a line of the grid behind it."""
    sheet = open_layer(seen, report, "text_projection")
    background = "getComputedStyle(document.body).backgroundColor"
    trials = seen.chart(f"{sheet} [data-chart=trials]")
    bar = trials["data"][0]["marker"]["color"][0]
    grid = seen.page.locator(f"{DEPTH} .ygrid").first.evaluate("one => one.style.stroke")
    return (
        seen.page.evaluate(background),
        seen.chart(DEPTH)["font"],
        trials["font"],
        bar,
        grid,
    )


def test_a_phone_scrolls_tables_and_never_the_page(seen, report):
    open_layer(seen, report, "text_projection")
    assert seen.chart(DEPTH)["layout"]["grid"]["rows"] == 1
    with seen.phone():
        page = seen.page
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert seen.chart(DEPTH)["layout"]["grid"]["rows"] == 2
        assert page.locator(".sheet:visible").first.bounding_box()["width"] <= 390
        assert page.locator(DEPTH).bounding_box()["width"] <= 390
