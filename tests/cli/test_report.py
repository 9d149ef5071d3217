# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``qkit report``: every view of a stored run."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest

SORTS = {
    "alone": lambda x: (x["local_sqnr_db"], x["name"]),
    "arrives": lambda x: (x["cumulative_sqnr_db"], x["name"]),
    "makes": lambda x: (-x["made"], x["name"]),
    "weight": lambda x: (x["weight_sqnr_db"] is None, x["weight_sqnr_db"] or 0.0, x["name"]),
    "cosine": lambda x: (x["cosine"], x["name"]),
    "clip": lambda x: (-(x["clipped"] or 0.0), x["name"]),
    "size": lambda x: (-x["weights"], x["name"]),
    "name": lambda x: x["name"],
    "order": lambda x: 0,
}
COLOUR = re.compile(r"\x1b\[[0-9;]*[34]\d")


@pytest.fixture(scope="module")
def run(save_run, shapes):
    """A run at 4 bits, evaluated on classes and captions; tests only read it."""
    sources = [f"classes:{shapes}/classes", f"captions:{shapes}/captions.csv"]
    return save_run(method="percentile", evaluate=sources)


@pytest.fixture(scope="module")
def stored(run):
    return json.loads((run / "report.json").read_text())


def parsed(text):
    return list(csv.DictReader(io.StringIO(text)))


def shown(text):
    """Places and short names in the table of layers, in the order shown."""
    table = re.split(r"^layers.*: \d+ of \d+$|^alone: SQNR", text, flags=re.MULTILINE)[1]
    return re.findall(r"^(image|text) +(?:(\d+) +)?([a-z]\S+) ", table, re.MULTILINE)


def place(layer):
    block = "" if layer["block"] is None else str(layer["block"])
    return layer["tower"], block, re.sub(r"^.*resblocks\.\d+\.", "", layer["name"])


def test_the_default_shows_everything_with_the_ten_worst_layers(show, stored):
    text = show()
    for part in (stored["label"], stored["model"], "accuracy, %", "embedding space", "towers"):
        assert part in text
    assert "layers, worst first: 10 of 32" in text
    assert shown(text) == [place(x) for x in sorted(stored["layers"], key=SORTS["alone"])[:10]]
    for layer in sorted(stored["layers"], key=SORTS["alone"])[:10]:
        for words in (layer["cause"], layer["evidence"], layer["remedy"]):
            assert " ".join(words.split()) in " ".join(text.split())


@pytest.mark.parametrize("sort", SORTS)
def test_layers_come_in_the_order_asked_for(show, stored, sort):
    expected = sorted(stored["layers"], key=SORTS[sort])
    assert [row["name"] for row in parsed(show("--csv", f"--sort={sort}"))] == [
        layer["name"] for layer in expected
    ]
    assert shown(show(f"--sort={sort}", "--top=5")) == [place(layer) for layer in expected[:5]]


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--tower=text"], lambda x: x["tower"] == "text"),
        (["--kind=attention"], lambda x: x["kind"] == "attention"),
        (["--layer=mlp.c_*"], lambda x: ".mlp.c_" in x["name"]),
        (["--layer=resblocks.1.*proj"], lambda x: re.search(r"blocks\.1\..*proj$", x["name"])),
        (["--tower=image", "--kind=conv"], lambda x: x["name"] == "visual.conv1"),
        (["--all"], lambda x: True),
    ],
)
def test_only_the_layers_asked_for_are_shown(show, stored, flags, wanted):
    names = {layer["name"] for layer in stored["layers"] if wanted(layer)}
    assert names
    assert {row["name"] for row in parsed(show("--csv", *flags))} == names
    mine = [layer for layer in stored["layers"] if layer["name"] in names]
    assert sorted(shown(show("--all", *flags))) == sorted(map(place, mine))
    leaves = re.findall(r"[├└]── ([a-z]\S+) .*[WA]\d", show("--tree", *flags))
    assert leaves == [place(layer)[2] for layer in mine]


def test_evaluations_say_on_what(show, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    text = show()
    assert re.search(r"classes:classes, 12 images +top-?1 ", text)
    assert re.search(r"captions:captions.csv, 12 images +image to text R@1 ", text)


def test_the_tree_has_towers_and_blocks(show):
    text = show("--tree")
    assert re.findall(r"^[├└]── (\w+) tower", text, re.MULTILINE) == ["image", "text"]
    assert re.findall(r"── block (\d)", text) == ["0", "1", "0", "1"]
    assert "text tower" not in show("--tree", "--tower=image")


def test_csv_holds_the_single_values_of_every_layer(show, stored):
    rows = {row["name"]: row for row in parsed(show("--csv"))}
    assert len(rows) == len(stored["layers"])
    for layer in stored["layers"]:
        for key, text in rows[layer["name"]].items():
            lossless = (
                key.endswith("sqnr_db") and layer["weight_bits" if "weight" in key else "name"]
            )
            missing = "inf" if lossless else ""
            assert text == (missing if layer[key] is None else str(layer[key])), key


def test_json_is_the_stored_report(show, stored, run):
    assert json.loads(show("--json")) == stored
    assert show("--json").strip() == (run / "report.json").read_text().strip()


class Resources(HTMLParser):
    """Everything that a page would load."""

    def __init__(self, page):
        super().__init__()
        self.loaded = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        names = ("src", "href", "srcset", "data", "action")
        self.loaded += [value for name, value in attrs if name in names]


def test_the_page_is_one_file_that_loads_nothing(qkit, run, tmp_path):
    target = tmp_path / "report page.html"
    result = qkit("report", run, f"--html={target}")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert f"written to {target}" in result.stderr
    assert list(tmp_path.iterdir()) == [target]
    page = target.read_text()
    found = Resources(page).loaded
    assert found
    assert [value for value in found if not value.startswith(("#", "data:"))] == []
    styles = "".join(re.findall(r"<style>(.*?)</style>", page, re.DOTALL))
    assert "url(" not in styles
    assert "@import" not in styles
    assert "visual.transformer.resblocks.1.mlp.c_proj" in page
    again = qkit("report", run, f"--html={target}", "--json")
    assert json.loads(again.stdout)["label"] == "W4A4 attn8, percentile"


@pytest.mark.parametrize("columns", [80, 160])
@pytest.mark.parametrize("flags", [[], ["--all"], ["--tree"], ["--tower=image", "--sort=size"]])
def test_no_line_is_longer_than_the_terminal_is_wide(show, monkeypatch, columns, flags):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert max(map(len, show(*flags).splitlines())) <= columns


@pytest.mark.parametrize("columns", ["80", "160"])
def test_every_column_of_the_spaces_is_shown(show, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    header = next(line for line in show().splitlines() if "img cos" in line)
    assert header.split()[-6:] == ["KL", "top-1", "churn", "gap", "ECE", "scale"]


def test_colours_only_where_they_are_wanted(show, monkeypatch):
    assert "\x1b" not in show("--all")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert COLOUR.search(show("--all"))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not COLOUR.search(show("--all"))
    assert "\x1b" not in show("--csv") + show("--json")
