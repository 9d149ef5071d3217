# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Layers as CSV: one row a layer, the fields of ``report.json`` that are single values."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from qkit.report.layer import LayerReport

NESTED = ("operands", "tensors", "channel", "errors", "trials")


def layers_csv(layers: Sequence[LayerReport]) -> str:
    """One header and one row a layer; blank for what a layer has not, "inf" for exact."""
    names = [f.name for f in fields(LayerReport) if f.name not in NESTED]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(getattr(layer, name)) for name in names] for layer in layers)
    return text.getvalue()


def _cell(value: Any) -> Any:
    return "inf" if isinstance(value, float) and math.isinf(value) else value
