# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The models and data that benchmarks run on: the demo that qkit brings along, and the testbed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qkit.clip.loading import DEMO
from qkit.data import join_sources
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
        kinds: parts of the calibration data by name, where it has some.
    """

    name: str
    model: str
    calibration: str
    evaluations: tuple[str, ...]
    titles: tuple[str, ...]
    kinds: Mapping[str, str] = field(default_factory=dict)


MODEL = f"local-dir:{TESTBED / 'vit-tiny-lit'}"
PAIRS = f"captions:{TESTBED / 'flickr8k/calib.csv'}"
OBJECTS = f"classes:{TESTBED / 'tiny-imagenet/train'}"
SCORED = (f"classes:{TESTBED / 'imagenet-sample'}", f"captions:{TESTBED / 'flickr8k/test.csv'}")
SCORED_TITLES = ("ImageNet-sample", "Flickr8k")

BEDS = {
    "demo": Bed("demo", DEMO, CALIBRATION, EVALUATION, ("labelled", "unseen", "pairs")),
    "testbed": Bed("testbed", MODEL, PAIRS, SCORED, SCORED_TITLES),
    # half scenes with captions, half objects: as varied as what is evaluated
    "varied": Bed(
        "varied",
        MODEL,
        join_sources([PAIRS, OBJECTS]),
        SCORED,
        SCORED_TITLES,
        {"scenes": PAIRS, "objects": OBJECTS},
    ),
}
