# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The trained model that qkit brings along: accuracy in float, at 8 and at 4 bits."""

import json
from importlib.resources import files

import pytest

import qkit
from qkit.demo.training.record import PARTS
from qkit.pipeline.evaluate import Evaluator


@pytest.fixture(scope="module")
def demo():
    return qkit.load_model("demo")


@pytest.fixture(scope="module")
def record():
    return json.loads((files("qkit.demo") / "weights" / "training.json").read_text())


@pytest.fixture(scope="module")
def eight_bits(demo):
    return qkit.calibrate(demo, "demo:calib", recipe="w8a8-minmax", evaluate=PARTS)


def top1(metric, of="quantized"):
    return getattr(metric, of)["top1"]


def test_the_float_model_is_as_good_as_its_training_log_says(eight_bits, record):
    for metric in eight_bits.report.metrics:
        stored = record["scores"][metric.data]
        for name, value in stored.items():
            assert metric.float[name] == pytest.approx(value, abs=0.003)


def test_the_float_model_is_good_but_not_saturated(eight_bits):
    labelled, unseen, pairs = eight_bits.report.metrics
    assert 0.85 <= top1(labelled, "float") <= 0.97
    assert top1(unseen, "float") > 0.5
    assert 0.3 < pairs.float["image_to_text"]["r1"] < 0.95


def test_eight_bits_lose_less_than_half_a_point(eight_bits):
    labelled = eight_bits.report.metrics[0]
    assert top1(labelled) > top1(labelled, "float") - 0.005
    assert labelled.agreement > 0.97


def test_four_bits_with_full_ranges_lose_more_than_ten_points(demo, record):
    result = qkit.calibrate(demo, "demo:calib", bits=4, method="minmax", evaluate=["demo:labelled"])
    assert top1(result.report.metrics[0]) < record["scores"]["demo:labelled"]["top1"] - 0.1


def test_a_run_of_the_demo_comes_back_with_the_same_answers(eight_bits, tmp_path):
    eight_bits.save(tmp_path / "run")
    loaded = qkit.load(tmp_path / "run")
    again = Evaluator(loaded.clip).run("demo:unseen")
    assert again.quantized == eight_bits.report.metrics[1].quantized
