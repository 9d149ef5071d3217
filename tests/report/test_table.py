# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Layers as CSV, read back with Python's own reader."""

import csv
import io

import pytest

from qkit.report.table import layers_csv


@pytest.fixture
def rows(layer, floating):
    """Rows by column name of an exact layer, and of one with awkward words."""
    words = {"cause": 'one, "two"\nthree', "evidence": "", "remedy": "input at 8 bits: +3.0 dB"}
    text = layers_csv([floating(), layer(**words)])
    return list(csv.DictReader(io.StringIO(text)))


def test_single_values_have_a_column_and_nested_ones_have_none(rows):
    columns = list(rows[0])
    assert columns[:5] == ["name", "tower", "kind", "block", "weight_bits"]
    assert columns[-3:] == ["cause", "evidence", "remedy"]
    assert not {"operands", "tensors", "channel", "errors", "trials"} & set(columns)


def test_numbers_come_back_as_they_were(rows, layer):
    for name in ("local_sqnr_db", "made", "cosine", "clipped", "weights", "token_spread"):
        assert float(rows[1][name]) == getattr(layer(), name)


def test_exact_is_inf_and_what_a_layer_has_not_is_blank(rows):
    assert rows[0]["local_sqnr_db"] == rows[0]["inherited_sqnr_db"] == "inf"
    assert float(rows[0]["made"]) == 0
    for name in ("block", "weight_bits", "weight_sqnr_db", "clipped"):
        assert rows[0][name] == ""


def test_what_was_searched_together_has_its_columns(layer):
    text = layers_csv([layer(dependency=1.625, search_group=0), layer()])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["dependency"], row["search_group"]) for row in rows] == [("1.625", "0"), ("", "")]


def test_words_with_commas_quotes_and_line_breaks_survive(rows):
    assert rows[1]["cause"] == 'one, "two"\nthree'
    assert rows[1]["remedy"] == "input at 8 bits: +3.0 dB"


def test_no_layers_leave_the_header():
    assert layers_csv([]).count("\n") == 1
    assert layers_csv([]).startswith("name,tower,")
