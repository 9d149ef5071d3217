# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``qkit compare``: runs side by side, whatever each of them was evaluated on."""

import csv
import io
import json
import re
import shutil

import pytest

import qkit
from qkit.cli.compare import MOST
from tests.cli.conftest import one_line_error

BITS = {"four": 4, "eight": 8, "three": 3}


@pytest.fixture(scope="module")
def runs(tiny_folder, shapes, tmp_path_factory):
    """Three runs: one evaluated on both kinds of data, one on captions, one on nothing."""
    root = tmp_path_factory.mktemp("runs")
    captions, classes = f"captions:{shapes}/captions.csv", f"classes:{shapes}/classes"
    evaluated = {"four": [classes, captions], "eight": [captions], "three": []}
    for name, bits in BITS.items():
        qkit.calibrate(
            f"local-dir:{tiny_folder}",
            captions,
            bits=bits,
            method="minmax",
            evaluate=evaluated[name],
            overrides=qkit.Overrides(samples=6),
        ).save(root / name)
    return root


@pytest.fixture
def show(qkit, runs):
    """Standard output of a comparison of runs with some flags."""

    def show(*names_and_flags):
        args = [runs / arg if arg in BITS else arg for arg in names_and_flags]
        result = qkit("compare", *args)
        assert result.exit_code == 0, result.output
        return result.stdout

    return show


@pytest.fixture(scope="module")
def stored(runs):
    return {name: json.loads((runs / name / "report.json").read_text()) for name in BITS}


def alone(report):
    return {layer["name"]: layer["local_sqnr_db"] for layer in report["layers"]}


def table(text, title):
    """Lines of the table below a title, up to the next blank line."""
    lines = text.partition(title)[2].splitlines()[1:]
    return lines[: next((i for i, line in enumerate(lines) if not line.strip()), len(lines))]


def test_two_runs_with_letters_and_the_layers_that_differ_most(show, stored):
    text = show("four", "eight", "--top=3")
    assert re.search(r"^A  four: W4A4 attn8, minmax,\s+local-dir:", text, re.MULTILINE)
    assert re.search(r"^B  eight: W8A8 attn8, minmax", text, re.MULTILINE)
    lines = table(text, "SQNR of layers alone, dB, most different first: 3 of 32")
    assert lines[0].split() == ["where", "layer", "A", "B", "B-A"]
    four, eight = alone(stored["four"]), alone(stored["eight"])
    differences = sorted((eight[name] - four[name] for name in four), key=abs, reverse=True)
    shown = [float(line.split()[-1]) for line in lines[1:]]
    assert shown == [round(change, 1) for change in differences[:3]]


def test_cells_of_what_a_run_was_not_evaluated_on_stay_blank(show, stored):
    text = show("four", "eight", "three")
    rows = {line.split()[0]: line for line in table(text, "the change against float")[2:]}
    assert set(rows) == {"float", "A", "B", "C"}
    sizes = [report["size"]["quantized_bytes"] / 1e6 for report in stored.values()]
    cells = {name: line.split()[1:] for name, line in rows.items()}
    assert [len(cells[name]) for name in "ABC"] == [5, 3, 1]
    assert [float(cells[name][-1]) for name in "ABC"] == [round(size, 1) for size in sizes]
    captions = stored["eight"]["metrics"][0]
    after = captions["quantized"]["image_to_text"]["r1"]
    assert float(cells["B"][0]) == round(100 * after, 1)
    assert rows["B"].index(cells["B"][0]) > rows["A"].index(cells["A"][1])
    assert len(cells["float"]) == 3


def test_three_runs_are_each_compared_with_the_first(show, stored):
    text = show("three", "four", "eight", "--all", "--layer=visual.conv1")
    (header, row) = table(text, "most different first: 1 of 1")
    assert header.split()[2:] == ["A", "B", "B-A", "C", "C-A"]
    values = [alone(stored[name])["visual.conv1"] for name in ("three", "four", "eight")]
    first, *others = values
    expected = [f"{first:.1f}"]
    for value in others:
        expected += [f"{value:.1f}", f"{value - first:+.1f}"]
    assert row.split()[2:] == expected
    cosines = table(text, "embedding cosine and coverage")
    assert cosines[1].split()[1] == f"{stored['three']['embedding_cosine']['image']:.4f}"


def test_csv_has_a_column_a_run_and_a_row_a_layer(show, stored):
    rows = list(csv.DictReader(io.StringIO(show("four", "eight", "three", "--csv"))))
    assert list(rows[0]) == ["name", "tower", "block", "four", "eight", "three"]
    assert {row["name"] for row in rows} == set(alone(stored["four"]))
    for row in rows:
        for name in BITS:
            assert float(row[name]) == alone(stored[name])[row["name"]]
    few = csv.DictReader(io.StringIO(show("four", "eight", "--csv", "--kind=attention")))
    assert {row["name"].rpartition(".")[2] for row in few} == {"sdpa"}


def test_json_holds_the_reports_and_the_layers(show, stored):
    found = json.loads(show("four", "three", "--json"))
    assert found["runs"] == {name: stored[name] for name in ("four", "three")}
    assert len(found["layers"]) == 32
    for entry in found["layers"]:
        expected = {name: alone(stored[name])[entry["name"]] for name in ("four", "three")}
        assert entry["sqnr_db"] == expected


def test_the_page_is_one_file_that_loads_nothing(qkit, runs, tmp_path):
    target = tmp_path / "page.html"
    result = qkit("compare", runs / "four", runs / "three", f"--html={target}")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert f"written to {target}" in result.stderr
    page = target.read_text()
    tags = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert re.findall(r"href=\"#", tags)
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)|<script[^>]+src", tags)
    for text in ("W4A4 attn8, minmax", "W3A3 attn8, minmax", "four", "three"):
        assert text in page
    bad = qkit("compare", runs / "four", runs / "three", f"--html={tmp_path}")
    one_line_error(bad, "cannot be written", "Is a directory")


@pytest.mark.parametrize("columns", [80, 160])
def test_no_line_is_longer_than_the_terminal_is_wide(show, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    for names in (("four", "eight"), ("four", "eight", "three")):
        assert max(map(len, show(*names, "--all").splitlines())) <= columns


def test_runs_of_one_name_are_told_apart_by_their_folders(qkit, runs, tmp_path, monkeypatch):
    for place, name in (("a", "four"), ("b", "eight")):
        shutil.copytree(runs / name, tmp_path / place / "run")
    result = qkit("compare", tmp_path / "a" / "run", tmp_path / "b" / "run", "--json")
    labels = {name: r["label"][:4] for name, r in json.loads(result.stdout)["runs"].items()}
    assert labels == {f"{tmp_path}/a/run": "W4A4", f"{tmp_path}/b/run": "W8A8"}
    monkeypatch.chdir(tmp_path / "a" / "run")
    here = qkit("compare", ".", runs / "three", "--csv").stdout.splitlines()[0]
    assert here == "name,tower,block,run,three"


def test_a_comparison_needs_different_runs(qkit, runs, tmp_path):
    one_line_error(qkit("compare", runs / "four"), "1 run given", f"2 to {MOST} run")
    one_line_error(qkit("compare", *(MOST + 1) * [runs / "four"]), f"{MOST + 1} run")
    twice = (runs / "four", runs / "eight", runs / "eight" / ".." / "four")
    one_line_error(qkit("compare", *twice), "not all different", "Name each run once")
    link = tmp_path / "latest"
    link.symlink_to(runs / "four")
    one_line_error(qkit("compare", runs / "four", link), "not all different")
    one_line_error(qkit("compare", runs / "four", tmp_path / "none"), "none is no run folder")
    assert qkit("compare").exit_code == 2


@pytest.mark.parametrize(
    ("flag", "part"),
    [("--tower=txt", "'text'"), ("--kind=con", "'conv'"), ("--layer=none.*", "no layer matches")],
)
def test_unknown_choices_name_the_nearest(qkit, runs, flag, part):
    one_line_error(qkit("compare", runs / "four", runs / "eight", flag), part)


def test_a_damaged_or_old_report_is_refused(qkit, runs, tmp_path):
    old = shutil.copytree(runs / "eight", tmp_path / "old")
    for content, part in (('{"label": ""}', "layout 1"), ("{", "damaged")):
        (old / "report.json").write_text(content)
        one_line_error(qkit("compare", runs / "four", old), part, "Calibrate again")
