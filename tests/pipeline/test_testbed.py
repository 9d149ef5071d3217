# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A real pre-trained image tower on real images: accuracy, not only shapes."""

from pathlib import Path

import pytest

import qkit
from qkit.data import draw, open_dataset, parse_source
from qkit.pipeline.evaluate import Evaluator

QUICK = qkit.Overrides(samples=32, batch_size=16)


@pytest.fixture(scope="module")
def calibrated(testbed: Path):
    model = qkit.load_model(f"local-dir:{testbed / 'vit-tiny-lit'}")
    data = f"captions:{testbed / 'flickr8k' / 'calib.csv'}"
    return qkit.calibrate(model, data, recipe="w8a8-percentile", overrides=QUICK)


@pytest.fixture(scope="module")
def retrieval(testbed: Path, calibrated):
    """100 of the test images: a few seconds."""
    source = parse_source(f"captions:{testbed / 'flickr8k' / 'test.csv'}")
    return Evaluator(calibrated.student.clip).run_on(draw(open_dataset(source), 100, 0))


def test_the_float_model_finds_images_and_captions(retrieval):
    assert retrieval.float["image_to_text"]["r1"] > 0.5
    assert retrieval.float["text_to_image"]["r1"] > 0.5


def test_eight_bits_lose_little(retrieval, calibrated):
    assert retrieval.quantized["image_to_text"]["r1"] > retrieval.float["image_to_text"]["r1"] - 0.1
    assert retrieval.agreement > 0.7
    assert calibrated.report.embedding_cosine["image"] > 0.98
    assert calibrated.report.embedding_cosine["text"] > 0.999


def test_the_massive_activation_is_found(testbed: Path):
    """One input, that of block 7's second MLP layer, is known to rule this tower."""
    model = qkit.load_model(f"local-dir:{testbed / 'vit-tiny-lit'}")
    data = f"captions:{testbed / 'flickr8k' / 'calib.csv'}"
    report = qkit.calibrate(model, data, bits=4, method="mse", overrides=QUICK).report
    worst = min(report.layers, key=lambda layer: layer.local_sqnr_db)
    assert worst.name == "visual.transformer.resblocks.7.mlp.c_proj"
