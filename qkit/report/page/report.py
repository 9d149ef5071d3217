# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""One run's report as a page."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence

from qkit.report.fields import list_dataclasses
from qkit.report.layer import LayerReport
from qkit.report.model import ModelReport
from qkit.report.page.assemble import assemble
from qkit.report.select import worst_first
from qkit.report.tuning import TuningReport


def report_page(
    report: ModelReport,
    images: Mapping[tuple[str, int], bytes],
    tuning: TuningReport | None = None,
) -> str:
    """Return a self-contained HTML page that shows everything in a report.

    Args:
        report: what was measured.
        images: PNG files by (data of the metric, index of the sample), for the examples of what
            is mistaken; those that are missing are left out.
        tuning: what a fine-tuning brought, where there was one.
    """
    return assemble(
        "report.html.j2",
        report=report,
        tuning=tuning,
        data=report.to_dict(),
        layers=_worst_first(report.layers),
        spaces=report.spaces.items(),
        images={key: _data_uri(png) for key, png in images.items()},
        classes=list_dataclasses(ModelReport),
    )


def _worst_first(layers: Sequence[LayerReport]) -> list[tuple[int, LayerReport]]:
    """Layers with their place in the report, the least local SQNR first."""
    place = {layer.name: index for index, layer in enumerate(layers)}
    return [(place[layer.name], layer) for layer in worst_first(layers)]


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{b64encode(png).decode('ascii')}"
