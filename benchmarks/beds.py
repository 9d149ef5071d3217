# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The models and data that benchmarks run on: the demo that qkit brings along, and the testbed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qkit.clip.loading import DEMO
from qkit.pipeline.defaults import CALIBRATION, EVALUATION

TESTBED = Path(__file__).resolve().parents[2] / "shared" / "testbed"


@dataclass(frozen=True, slots=True)
class Bed:
    """A trained model with data to calibrate and to evaluate on.

    Attributes:
        name: what it is called.
        model: as ``qkit.load_model`` takes it.
        calibration: captioned images.
        evaluations: sources; the first is classification.
        titles: what a table calls each of them.
    """

    name: str
    model: str
    calibration: str
    evaluations: tuple[str, ...]
    titles: tuple[str, ...]


BEDS = {
    "demo": Bed(
        "demo",
        DEMO,
        CALIBRATION,
        EVALUATION,
        ("labelled", "unseen", "pairs"),
    ),
    "testbed": Bed(
        "testbed",
        f"local-dir:{TESTBED / 'vit-tiny-lit'}",
        f"captions:{TESTBED / 'flickr8k/calib.csv'}",
        (f"classes:{TESTBED / 'imagenet-sample'}", f"captions:{TESTBED / 'flickr8k/test.csv'}"),
        ("ImageNet-sample", "Flickr8k"),
    ),
}
