# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``qkit report --blocks``: layers searched together, from calibration to the terminal."""

import csv
import io
import json
import re

import pytest

from tests.cli.conftest import one_line_error

TOWERS = ("image", "text")


@pytest.fixture(scope="module")
def run(tiny_folder, shapes, tmp_path_factory):
    """A run of the command line at 4 bits; tests only read it."""
    from typer.testing import CliRunner

    from qkit.cli import app

    path = tmp_path_factory.mktemp("runs") / "together"
    args = f"calibrate --model local-dir:{tiny_folder} --data captions:{shapes}/captions.csv"
    flags = f"--bits 4 --samples 8 --method entropy --option samples=4 --out {path}"
    result = CliRunner().invoke(app, [*args.split(), *flags.split()])
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture(scope="module")
def stored(run):
    return json.loads((run / "report.json").read_text())


def stages(stored, tower):
    return [stage for stage in stored["partition"]["stages"] if stage["tower"] == tower]


def test_the_report_holds_every_stage_and_its_layers(stored):
    assert stored["version"] == 3
    assert set(stored["partition"]["threshold"]) == set(TOWERS)
    for tower in TOWERS:
        mine = stages(stored, tower)
        ends = [stage["name"].split("resblocks.")[1] for stage in mine]
        assert ends == ["0.attn", "0.mlp", "1.attn", "1.mlp"]
        assert [stage["block"] for stage in mine] == [0, 0, 1, 1]
        assert [stage["dependency"] is None for stage in mine] == [False] * 3 + [True]
        assert all(0 <= stage["error"] <= stage["start"] for stage in mine)
    inside = [name for stage in stored["partition"]["stages"] for name in stage["layers"]]
    assert sorted(inside) == sorted(x["name"] for x in stored["layers"] if x["block"] is not None)


def test_every_layer_has_what_its_stage_has(stored):
    known = {name: stage for stage in stored["partition"]["stages"] for name in stage["layers"]}
    for layer in stored["layers"]:
        stage = known.get(layer["name"], {"dependency": None, "group": None})
        assert (layer["dependency"], layer["search_group"]) == (stage["dependency"], stage["group"])
    assert any(layer["search_group"] is None for layer in stored["layers"])


@pytest.mark.parametrize("columns", ["80", "160"])
def test_the_strip_has_the_groups_of_the_report(show, stored, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    text = show("--blocks")
    assert max(map(len, text.splitlines())) <= int(columns)
    strips = re.findall(r"^  (\[[am]0 .*)$", text, re.MULTILINE)
    for tower, strip in zip(TOWERS, strips, strict=True):
        mine = stages(stored, tower)
        groups = [[] for _ in range(mine[-1]["group"] + 1)]
        for stage in mine:
            groups[stage["group"]].append(f"{stage['name'].split('.')[-1][0]}{stage['block']}")
        assert [inside.split() for inside in re.findall(r"\[(.*?)\]", strip)] == groups
        assert f"threshold {stored['partition']['threshold'][tower]:.2f}" in text


def test_the_table_has_every_layer_in_the_blocks(show, stored):
    rows = re.findall(r"^ +(\d+) ([am]\d) +(\S+) .*$", show("--blocks"), re.MULTILINE)
    inside = [layer for layer in stored["layers"] if layer["block"] is not None]
    assert [(int(group), name) for group, _, name in rows] == [
        (layer["search_group"], layer["name"].split(f"resblocks.{layer['block']}.")[1])
        for layer in inside
    ]


def test_one_tower_or_some_layers(show):
    text = show("--blocks", "--tower=text")
    assert "text: 4 stages" in text
    assert "image" not in text
    rows = re.findall(r"^ +\d+ [am]\d +(\S+) ", show("--blocks", "--kind=attention"), re.MULTILINE)
    assert set(rows) == {"attn.sdpa"}


def test_csv_has_the_groups_and_other_forms_go_before_the_strip(show, stored):
    rows = list(csv.DictReader(io.StringIO(show("--csv", "--blocks", "--sort=order"))))
    for row, layer in zip(rows, stored["layers"], strict=True):
        for name in ("dependency", "search_group"):
            assert row[name] == ("" if layer[name] is None else str(layer[name]))
    assert json.loads(show("--json", "--blocks")) == stored
    assert show("--tree", "--blocks") == show("--tree")


def test_colours_only_where_they_are_wanted(show, monkeypatch):
    assert "\x1b" not in show("--blocks")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[3" in show("--blocks")


def test_an_unknown_tower_is_one_line(qkit, run):
    one_line_error(qkit("report", run, "--blocks", "--tower=imge"), "Did you mean 'image'?")
