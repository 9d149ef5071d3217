# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a fine-tuning brought: read back from a manifest, and as a table."""

import io
from dataclasses import asdict

import pytest
from rich.console import Console

from qkit.errors import ArtifactError
from qkit.report.terminal.tuning import print_tuning
from qkit.report.tuning import Gain, TuningReport, read_tuning

RECALL = {"r1": 0.5, "r5": 0.7, "r10": 0.8}
PAIRS = {"image_to_text": RECALL, "text_to_image": {**RECALL, "r1": 0.25}}
REPORT = TuningReport(
    images=3200,
    epochs=50,
    loss=0.51234,
    accuracy=0.9,
    added=131712,
    share=0.00087,
    seconds=61.4,
    gains=(
        Gain(
            "classes:a/val",
            "classification",
            {"top1": 0.64, "top5": 0.9},
            {"top1": 0.41, "top5": 0.7},
            {"top1": 0.672, "top5": 0.9},
            0.21,
            0.17,
            0.25,
        ),
        Gain("captions:b/test.csv", "retrieval", PAIRS, PAIRS, PAIRS, 0.3, 0.3, 0.3),
    ),
)


def test_a_manifest_gives_it_back_and_other_runs_have_none():
    assert read_tuning({"p4q": {"report": asdict(REPORT)}}) == REPORT
    assert read_tuning({"recipe": {}}) is None


@pytest.mark.parametrize("table", [{}, None, {"report": {}}, {"report": {"images": "x"}}])
def test_a_damaged_one_is_an_error_in_one_line(table):
    with pytest.raises(ArtifactError) as caught:
        read_tuning({"p4q": table})
    assert "\n" not in str(caught.value)


def test_the_table_sets_three_models_side_by_side():
    file = io.StringIO()
    print_tuning(REPORT, Console(file=file, width=80, highlight=False))
    said = file.getvalue()
    words = " ".join(said.split())
    assert "3200 images, 50 epochs in 61 s: loss 0.512, accuracy 90.0 % on them" in words
    assert "131,712 parameters added, 0.09 % of the model" in words
    rows = [line.split() for line in said.splitlines()]
    assert ["classes:val", "top-1", "64.0", "41.0", "67.2", "+26.2", "+3.2"] in rows
    assert ["cosine", "0.210", "0.170", "0.250", "+0.080", "+0.040"] in rows
    assert "image to text R@1 50.0 50.0 50.0 +0.0 +0.0" in words
    assert "text to image R@1 25.0 25.0 25.0 +0.0 +0.0" in words
    assert max(map(len, said.splitlines())) <= 80
