# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A search in the terminal: every figure in its row, and the bits of each layer by depth."""

import pytest

from qkit.report.search import Row, SearchReport, UnitReport
from qkit.report.terminal.search import grid_table, print_search

PART = "mlp.c_fc"


def unit(tower, block, bits, part=PART, **other):
    fields = {"weights": 9, "sees_input": True} | other
    name = part if block is None else f"{tower}.resblocks.{block}.{part}"
    return UnitReport(
        name, part, tower, block, "linear", macs=4, loss={"4/8": 1e-3}, bits=bits, **fields
    )


def row(name, bits, predicted, measured, asked=False):
    costs = {"bits": bits, "size": 1e6 * bits, "bitops": 1e9 * bits}
    return Row(name, costs, predicted, measured, asked)


@pytest.fixture
def report():
    units = [unit("image", None, "8/8", "visual.conv1")]
    units += [unit("image", i, "4/6" if i % 3 else "8/8") for i in range(32)]
    units += [unit("text", i, "5/8") for i in (0, 2)]
    units += [unit("text", 1, "8/8", "attn.[qkv]_proj")]
    units += [unit("text", None, "4/8", "token_embedding", sees_input=False)]
    front = (row("bits=3", 3.0, 2.5, 12.5), row("bits=5", 4.987, 0.0123, 0.02345, asked=True))
    return SearchReport(
        ("bits=5",),
        ("4/8", "8/8"),
        "demo",
        "captions:long/path/to/calib.csv",
        64,
        front,
        (row("4/8", 4.0, 0.1, 0.2),),
        row("the run", 4.0, None, 0.3),
        tuple(units),
    )


@pytest.mark.parametrize("width", [80, 160])
def test_every_figure_is_in_its_row(lines, report, width):
    shown = lines(lambda console: print_search(report, console), width)
    found = {line.split()[0]: line.split()[1:] for line in shown if line.strip()}
    assert found["→"] == ["bits=5", "4.99", "4.987", "4.99", "12.3", "23.4"]
    assert found["bits=3"] == ["3.00", "3.000", "3.00", "2500", "12500"]
    assert found["4/8"] == ["4.00", "4.000", "4.00", "100", "200"]
    assert found["the"] == ["run", "4.00", "4.000", "4.00", "300"]
    assert "64 pairs of captions:calib.csv" in " ".join(shown)


@pytest.mark.parametrize("width", [80, 160])
def test_bits_stand_by_depth(lines, report, width):
    shown = lines(lambda console: print_search(report, console), width)
    cells = [line.split() for line in shown]
    assert cells[(at := cells.index(["image", "visual.conv1", "W", "8"])) + 1] == ["A", "8"]
    strip = "".join("4" if i % 3 else "8" for i in range(32))
    assert cells[at + 2 : at + 4] == [[PART, "W", strip], ["A", strip.replace("4", "6")]]
    assert ["text", PART, "W", "5.5"] in cells
    assert ["attn.[qkv]_proj", "W", ".8."] in cells
    assert cells[cells.index(["token_embedding", "W", "4"]) + 1][0] != "A"


def test_inputs_that_are_all_alike_are_said_once(lines):
    alike = [unit("image", i, bits) for i, bits in enumerate(("4/8", "5/8"))]
    shown = lines(grid_table(alike))
    assert shown[0] == "bits that each layer got, inputs 8 everywhere"
    assert [line.split() for line in shown[2:]] == [["image", PART, "W", "45"]]


def test_times_are_shown_where_there_are_some(lines, report):
    timed = row("bits=5", 5.0, 0.1, 0.1, asked=True)
    costs = {**timed.costs, "latency": 1.25e-3}
    fields = {name: getattr(report, name) for name in SearchReport.__dataclass_fields__}
    fields["front"] = (Row("bits=5", costs, 0.1, 0.1, asked=True),)
    shown = lines(lambda console: print_search(SearchReport(**fields), console))
    asked = next(line.split() for line in shown if line.startswith("→"))
    assert asked[-3:] == ["1.25", "100", "100"]
