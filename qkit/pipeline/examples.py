# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Small pictures of the images that a report names."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from qkit.data import Sample, open_dataset, parse_source
from qkit.data.decode import decode
from qkit.errors import DataError
from qkit.report.evaluation import Metric
from qkit.report.model import ModelReport

EDGE = 96  # pixels of a thumbnail's longer side


def example_images(report: ModelReport) -> dict[tuple[str, int], bytes]:
    """PNG files by evaluation and index; those whose data are not at hand any more are left out."""
    found: dict[tuple[str, int], bytes] = {}
    for metric in report.metrics:
        if metric.worst_classes:
            found |= _images_of(metric)
    return found


def _images_of(metric: Metric) -> dict[tuple[str, int], bytes]:
    wanted = {mistake.example for entry in metric.worst_classes for mistake in entry.mistakes}
    try:
        samples = open_dataset(parse_source(metric.data)).samples
        return {
            (metric.data, index): _thumbnail(samples[index])
            for index in wanted
            if index < len(samples)
        }
    except DataError:  # moved or deleted since: the page says that it has no pictures
        return {}


def _thumbnail(sample: Sample) -> bytes:
    picture = decode(sample.image) if isinstance(sample.image, Path) else sample.image.render()
    picture.thumbnail((EDGE, EDGE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return file.getvalue()
