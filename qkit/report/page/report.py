# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""One run's report as a page."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping

from qkit.report.fields import list_dataclasses
from qkit.report.layer import LayerReport
from qkit.report.model import ModelReport
from qkit.report.page.assemble import assemble
from qkit.report.space import Space


def report_page(report: ModelReport, images: Mapping[tuple[str, int], bytes]) -> str:
    """Return a self-contained HTML page that shows everything in a report.

    Args:
        report: what was measured.
        images: PNG files by (data of the metric, index of the sample), for the examples of what
            is mistaken; those that are missing are left out.
    """
    return assemble(
        "report.html.j2",
        report=report,
        data=report.to_dict(),
        layers=_worst_first(report.layers),
        spaces=_spaces(report),
        images={key: _data_uri(png) for key, png in images.items()},
        classes=list_dataclasses(ModelReport),
    )


def _worst_first(layers: tuple[LayerReport, ...]) -> list[tuple[int, LayerReport]]:
    """Layers with their place in the report, the least local SQNR first."""

    def fault(item: tuple[int, LayerReport]) -> tuple[float, str]:
        decibels = item[1].local_sqnr_db
        return (math.inf if math.isnan(decibels) else decibels, item[1].name)

    return sorted(enumerate(layers), key=fault)


def _spaces(report: ModelReport) -> list[tuple[str, Space]]:
    """Every embedding space measured on the whole model, with its data source."""
    evaluated = [(metric.data, metric.space) for metric in report.metrics if metric.space]
    known = dict(evaluated)
    return evaluated + [item for item in report.analyses.spaces.items() if item[0] not in known]


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{b64encode(png).decode('ascii')}"
