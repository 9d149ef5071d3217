# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Numbers and names as text."""

import math

import pytest

from qkit.report.page import formats

MINUS = "\N{MINUS SIGN}"


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (formats.percent(0.1234), "12.3"),
        (formats.percent(None), ""),
        (formats.number(1234567.0), "1.23e+06"),
        (formats.number(0.0000123), "1.23e-05"),
        (formats.number(-0.5), f"{MINUS}0.500"),
        (formats.number(0.0), "0.00"),
        (formats.decibels(math.inf), "exact"),
        (formats.decibels(-1.26), f"{MINUS}1.3"),
        (formats.decibels(None), ""),
        (formats.difference(math.inf), "+\N{INFINITY}"),
        (formats.difference(-math.inf), f"{MINUS}\N{INFINITY}"),
        (formats.difference(None), ""),
        (formats.change(0.9, 0.75), f"{MINUS}15.0"),
        (formats.change(None, 0.75), ""),
        (formats.change(0.5, 0.75, "number"), "+0.2500"),
        (formats.quantity(0.0000123, "number"), "1.23e-05"),
        (formats.quantity(0.25, "percent"), "25.0"),
        (formats.count(24_614_145), "24.6 M"),
        (formats.count(0), "0"),
        (formats.megabytes(13_115_916), "13.1"),
        (formats.sort_key(math.inf), ""),
        (formats.sort_key(None), ""),
        (formats.sort_key(-1.5), "-1.5"),
        (formats.listing({"weight": 4, "input": None}), "weight 4, input float"),
    ],
)
def test_text(shown, text):
    assert shown == text
