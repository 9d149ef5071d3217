# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What stands on a report's page."""

import json
import math
import re
from dataclasses import fields, replace

import pytest
from plotly.offline import get_plotlyjs

from qkit.report.analyses import Analyses
from qkit.report.fields import list_dataclasses
from qkit.report.model import ModelReport
from qkit.report.page.figures import SPACE_FIGURES
from qkit.report.page.report import report_page
from qkit.report.tuning import Gain, TuningReport

MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
LAYERS = "#layer-table > tbody > tr:first-child"


@pytest.fixture(scope="module")
def seen(show, report, images):
    return show(report_page(report, images))


@pytest.fixture(scope="module")
def half(show, report):
    """Without analyses and images."""
    return show(report_page(replace(report, analyses=Analyses()), {}))


def test_the_head_says_how_small_how_much_and_how_close(seen, report):
    assert seen.texts("h1") == [report.label]
    assert seen.page.title().startswith("W4A4 <b>attn8</b>, mse")
    names, values = seen.texts(".tiles dt"), seen.texts(".tiles dd")
    assert dict(zip(names, values, strict=True)) == {
        "size, MB": "98.5 → 13.1 7.5 times smaller than fp32",
        "weights quantized": "99.58 % of 24.6 M",
        "MACs quantized": "98.71 % of 1.46 G, one image and one text",
        "image embedding": "0.9312 cosine to float",
        "text embedding": "0.9841 cosine to float",
    }


def test_what_is_left_in_float_unfolds_with_its_reasons(seen):
    assert not seen.page.get_by_text("the recipe leaves it in float").is_visible()
    seen.page.get_by_text("Left in float: 2 entries").click()
    assert seen.page.get_by_text("the recipe leaves it in float").is_visible()
    rows = seen.cells(".facts tbody tr")
    assert [row[0] for row in rows] == ["visual.conv1", "LayerNorm"]
    assert rows[0][1:5] == ["9.41 k", "0.04", "1.2 M", "0.08"]


def test_calibration_data_unfold(seen):
    seen.page.get_by_text("Calibrated on captions:calib.csv").click()
    shown = dict(zip(seen.texts(".facts dt"), seen.texts(".facts dd"), strict=True))
    assert shown["images"] == "128"
    assert shown["skipped"] == "none"
    assert shown["time to observe calibration data"] == "6.7 s"


def test_accuracy_shows_both_models_and_the_change(seen):
    rows = seen.cells("#accuracy .accuracy tbody tr")
    assert len(rows) == 2 + 4 + 2
    assert rows[0][1:] == ["top-1", "85.6", "71.2", f"{MINUS}14.4", "79.5"]
    assert rows[1] == ["top-5", "98.3", "93.1", f"{MINUS}5.2", ""]
    assert rows[4] == ["text to image R@1", "32.0", "33.0", "+1.0", ""]
    assert rows[6][1:] == ["top-1", "", "71.2", "", ""]
    assert "1000 images, 2 skipped" in rows[0][0]


def test_embedding_spaces_of_evaluations_and_analyses_are_explained(seen):
    heads = seen.texts("#accuracy table:not(.accuracy) thead th")
    rows = seen.cells("#accuracy table:not(.accuracy) tbody tr")
    assert [row[0] for row in rows] == [
        "classes:imagenet-sample",
        "captions:test.csv",
        "folder:elsewhere",
    ]
    first = dict(zip(heads, rows[0], strict=True))
    assert first["logit KL, nats"] == "0.3000"
    assert first["same top-1, %"] == "85.0"
    assert first["modality gapfloat → quantized"] == "0.8200 → 0.7900"
    assert first["ECE, %float → quantized"] == "4.1 → 7.1"
    assert rows[1][7] == ""
    seen.page.locator("#accuracy").get_by_text("What these figures say").click()
    assert seen.page.locator("#accuracy .meanings").is_visible()
    assert seen.texts("#accuracy .meanings dt") == [figure.label for figure in SPACE_FIGURES]
    assert all(len(text) > 40 for text in seen.texts("#accuracy .meanings dd"))


def test_all_layers_stand_there_worst_first(seen, report):
    expected = sorted(report.layers, key=lambda layer: (layer.local_sqnr_db, layer.name))
    script = "all => all.map(one => one.dataset.name)"
    names = seen.page.locator("#layer-table tbody").evaluate_all(script)
    assert names == [layer.name for layer in expected]
    shown = ["exact" if math.isinf(x.local_sqnr_db) else f"{x.local_sqnr_db:.1f}" for x in expected]
    assert [cells[7] for cells in seen.cells(LAYERS)] == shown
    head = seen.page.locator("#layer-table thead th", has_text="local dB")
    assert head.get_attribute("aria-sort") == "ascending"


def test_a_layer_shows_what_was_measured(seen, nasty):
    rows = {cells[2]: cells for cells in seen.cells(LAYERS)}
    shown = ["text", "", "text_projection", "projection", "4", "4", "19.6", "9.8", "12.2", "7.8"]
    assert rows["text_projection"] == [*shown, "64", "0.987", "1.23", nasty]
    assert rows["visual.conv1"][4:10] == ["float", "float", "", "exact", "exact", "exact"]
    assert rows["attn.sdpa"][4:7] == ["", "8", ""]


def test_parts_and_sensitivity_stand_in_tables(seen, report):
    section = "#sensitivity"
    seen.page.get_by_text("15 layers as a table").click()
    rows = seen.cells(f"{section} .rows tbody tr")
    assert [row[0] for row in rows] == [layer.name for layer in reversed(report.layers)]
    assert rows[0][1] == "0.0150"
    parts = seen.cells(f"{section} table:not(.rows) tbody tr")
    assert [row[0] for row in parts] == ["all", "weights", "activations"]
    assert parts[1][3] == "0.0500"


def test_worst_classes_show_examples_of_mistakes(seen, nasty):
    rows = seen.cells(".classes tbody tr")
    assert [row[:4] for row in rows] == [
        ["golden <i>retriever</i>", "10", "90.0", "30.0"],
        ["tench", "10", "80.0", "70.0"],
    ]
    assert seen.texts(".mistakes li") == [
        f"{nasty} {TIMES} 4",
        f"Eskimo dog {TIMES} 2",
        f"barracouta {TIMES} 1",
    ]
    pictures = seen.page.locator(".classes img")
    found = pictures.evaluate_all("all => all.map(one => [one.alt, one.naturalWidth])")
    name = "golden <i>retriever</i>"
    assert found == [
        [f"Sample 17: {name}, taken for {nasty}", 32],
        [f"Sample 3: {name}, taken for Eskimo dog", 32],
    ]


def test_missing_examples_are_said(half, seen):
    missing = "images were not at hand"
    assert half.page.get_by_text(missing).is_visible()
    assert half.page.locator("img").count() == 0
    assert len(half.cells(".classes tbody tr")) == 2
    assert seen.page.get_by_text(missing).count() == 0


def test_the_glossary_holds_every_field(seen):
    classes = list_dataclasses(ModelReport)
    assert seen.texts("#glossary summary > code:first-child") == [c.__name__ for c in classes]
    expected = [field.name for cls in classes for field in fields(cls)]
    assert seen.texts("#glossary dt") == expected
    assert all(seen.texts("#glossary dd"))


def test_the_report_is_embedded_once_as_it_is(seen, report, images):
    text = seen.page.locator("script#report").text_content()
    assert json.loads(text) == json.loads(json.dumps(report.to_dict()))
    assert report_page(report, images).count('"inherited_sqnr_db":') == len(report.layers)


def test_names_are_text_and_never_markup(seen, nasty):
    assert seen.page.locator("b", has_text="no markup").count() == 0
    assert seen.page.locator("img[src=x], h1 b, tbody i").count() == 0
    assert seen.page.get_by_text(nasty).first.is_visible()


def test_a_bare_report_says_what_is_missing(show, bare):
    seen = show(report_page(bare, {}))
    notes = seen.texts("main > section .note")
    assert [note.split(".")[0] for note in notes] == [
        "Nothing was evaluated",
        "No blocks were measured",
        "No layers were measured",
        "Not measured yet",
        "Not measured yet",
        "No class lost accuracy, or nothing was classified",
    ]
    assert seen.page.locator(".js-plotly-plot").count() == 0


def test_absent_analyses_name_the_commands(half):
    assert half.texts("#sensitivity code") == [
        "qkit report RUN --sensitivity",
        "qkit report RUN --parts",
    ]


def test_the_page_is_structured_for_every_reader(seen):
    page = seen.page
    assert page.locator("html").get_attribute("lang") == "en"
    landmarks = ("h1", "header", "nav", "main", "footer")
    assert [page.locator(name).count() for name in landmarks] == [1] * 5
    ids = page.locator("[id]").evaluate_all("all => all.map(one => one.id)")
    assert len(ids) == len(set(ids))
    targets = page.locator("nav a").evaluate_all("all => all.map(one => one.hash.slice(1))")
    assert len(targets) == 6
    assert set(targets) <= set(ids)
    assert page.locator("th:not([scope])").count() == 0
    assert page.locator(":is(select, input):not(label *)").count() == 0


def test_the_keyboard_first_finds_the_way_past_the_head(half):
    half.page.keyboard.press("Tab")
    focus = half.page.locator(":focus")
    assert focus.text_content() == "Skip to the content"
    assert focus.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    assert focus.bounding_box()["x"] >= 0


def test_scripts_leave_no_globals(seen):
    names = "['data', 'draw', 'painters', 'style', 'sortBy'].filter(name => name in window)"
    assert seen.page.evaluate(names) == []


def test_nothing_on_the_page_points_elsewhere(report, images):
    library = get_plotlyjs()
    assert "</script" not in library
    html = report_page(report, images)
    assert html.count(library) == 1
    own = html.replace(library, "")
    assert not re.search(r"https?://", own)
    links = re.findall(r'\b(?:src|href)="(?!#|data:)', own)
    assert links == []


def test_a_fine_tuning_stands_beside_float_and_quantized(show, report, images):
    gain = Gain(
        "classes:a/val",
        "classification",
        *({"top1": t} for t in (0.64, 0.41, 0.67)),
        0.21,
        0.17,
        0.25,
    )
    tuning = TuningReport(3200, 50, 0.51, 0.9, 131712, 0.0031, 61.4, (gain,))
    seen = show(report_page(report, images, tuning))
    rows = seen.cells(".tuning tbody tr")
    assert rows[0][-6:] == ["top-1, %", "64.0", "41.0", "67.0", "+26.0", "+3.0"]
    assert rows[1][-6:] == ["cosine", "0.2100", "0.1700", "0.2500", "+0.0800", "+0.0400"]
    assert "0.31 % of the model" in seen.page.content()


def test_a_run_that_was_not_fine_tuned_says_nothing_of_it(half):
    assert "P4Q" not in half.page.content()
