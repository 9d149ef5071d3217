# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The table of layers: its order, its filters and what its rows open to."""

from dataclasses import replace

import pytest

from qkit.report.page.report import report_page

ROWS = "#layer-table > tbody:not([hidden]) > tr:first-child"


@pytest.fixture(scope="module")
def opened(show, report):
    return show(report_page(report, {}))


@pytest.fixture
def seen(opened):
    """The page, and afterwards as it was."""
    yield opened
    for button in opened.page.locator("tbody button[aria-expanded=true]").all():
        button.click()
    opened.page.get_by_label("Tower").select_option("")
    opened.page.get_by_label("Kind").select_option("")
    opened.page.get_by_label("Name contains").fill("")
    header(opened, "tower").click()
    header(opened, "local dB").click()


def names(seen):
    return seen.page.locator("#layer-table > tbody:not([hidden])").evaluate_all(
        "all => all.map(one => one.dataset.name)"
    )


def column(seen, name):
    index = seen.texts("#layer-table thead th").index(name)
    return [cells[index] for cells in seen.cells(ROWS)]


def header(seen, name):
    return seen.page.get_by_role("button", name=name, exact=True)


def sorting(seen):
    script = "all => all.map(one => one.getAttribute('aria-sort'))"
    state = seen.page.locator("#layer-table thead th").evaluate_all(script)
    heads = seen.texts("#layer-table thead th")
    return {head: sort for head, sort in zip(heads, state, strict=True) if sort != "none"}


def test_numbers_sort_by_click_and_blanks_stay_last(seen, report):
    known = sorted(100 * x.clipped for x in report.layers if x.clipped is not None)
    blanks = [""] * (len(report.layers) - len(known))
    for direction, values in (("ascending", known), ("descending", known[::-1])):
        header(seen, "clipped %").click()
        assert column(seen, "clipped %") == [f"{value:.2f}" for value in values] + blanks
        assert sorting(seen) == {"clipped %": direction}
    header(seen, "block").click()
    assert column(seen, "block") == ["0"] * 4 + ["1"] * 4 + ["2"] * 4 + [""] * 3


def test_the_keyboard_sorts_too(seen, report):
    header(seen, "local dB").focus()
    seen.page.keyboard.press("Enter")
    finite = sorted((x.local_sqnr_db for x in report.layers[1:]), reverse=True)
    assert column(seen, "local dB") == [f"{value:.1f}" for value in finite] + ["exact"]
    assert sorting(seen) == {"local dB": "descending"}
    seen.page.keyboard.press("Space")
    assert sorting(seen) == {"local dB": "ascending"}


def test_texts_sort_by_alphabet(seen):
    header(seen, "kind").click()
    kinds = column(seen, "kind")
    assert kinds == sorted(kinds)
    header(seen, "kind").click()
    assert column(seen, "kind") == kinds[::-1]


def test_filters_narrow_down_and_say_so(seen, report):
    page = seen.page
    page.get_by_label("Tower").select_option("text")
    texts = [layer for layer in report.layers if layer.tower == "text"]
    assert set(names(seen)) == {layer.name for layer in texts}
    page.get_by_label("Kind").select_option("attention")
    assert page.locator(".filters output").text_content() == "3 of 15 layers"
    page.get_by_label("Name contains").fill(" BLOCKS.2")
    assert names(seen) == ["transformer.resblocks.2.attn.sdpa"]
    page.get_by_label("Name contains").press("Enter")
    page.get_by_label("Tower").select_option("all")
    assert len(names(seen)) == 2


def test_a_row_opens_and_closes_by_keyboard(seen):
    page = seen.page
    button = page.get_by_role("button", name="text_projection")
    assert button.get_attribute("aria-expanded") == "false"
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    sheet = page.locator(f"#{button.get_attribute('aria-controls')}")
    assert sheet.is_visible()
    assert "inputs in 8 bits gain 9.3 dB" in sheet.text_content()
    assert "number 411, which alone takes up 63 %" in sheet.text_content()
    assert sheet.locator(".js-plotly-plot").count() == 4
    page.keyboard.press("Space")
    assert button.get_attribute("aria-expanded") == "false"
    assert not sheet.is_visible()
    assert sheet.locator(".js-plotly-plot svg").count() == 0


def test_what_is_open_moves_with_its_row(seen):
    seen.page.get_by_role("button", name="text_projection").click()
    header(seen, "local dB").click()
    script = "one => one.closest('tbody').dataset.name"
    sheet = seen.page.locator(".opened:not([hidden])")
    assert sheet.evaluate(script) == "text_projection"
    assert names(seen)[-2] == "text_projection"


def test_a_row_says_what_its_layer_was_searched_with(report):
    marked = replace(report.layers[1], dependency=1.75, search_group=3)
    page = report_page(replace(report, layers=(marked, *report.layers[2:])), {})
    assert "in group 3 of its tower; the next stage depends on its own by 1.75 nats" in page
    assert page.count("<dt>searched together</dt>") == 1
