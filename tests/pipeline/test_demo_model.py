# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The trained model that qkit brings along: accuracy in float, at 8 and at 4 bits."""

import json
from importlib.resources import files

import pytest

import qkit
from qkit.pipeline.defaults import EVALUATION
from qkit.pipeline.evaluate import Evaluator
from qkit.recipe import load_recipe, parse_recipe

FEW = qkit.Overrides(samples=64)
QUICK = {
    "search": {"choices": "3/4,8/8", "samples": 8},
    "rounding": {"samples": 16, "iterations": 20},
    "reconstruction": {"samples": 32, "iterations": 4, "tower": 4},
}


@pytest.fixture(scope="module")
def demo():
    return qkit.load_model("demo")


@pytest.fixture(scope="module")
def record():
    return json.loads((files("qkit.demo") / "weights" / "training.json").read_text())


@pytest.fixture(scope="module")
def eight_bits(demo):
    return qkit.calibrate(demo, "demo:calib", recipe="w8a8-minmax", evaluate=EVALUATION)


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
    full, better = (
        top1(qkit.calibrate(demo, "demo:calib", evaluate=EVALUATION[:1], **args).report.metrics[0])
        for args in (
            {"overrides": qkit.Overrides(bits=4, attn_bits=4, method="minmax")},
            {"recipe": "w4a4-mse-token"},
        )
    )
    assert full < record["scores"]["demo:labelled"]["top1"] - 0.1
    assert better > full + 0.1


def hurried(name):
    """A shipped recipe with few iterations in the steps that take minutes."""
    table = load_recipe(name).to_dict()
    for step, quick in QUICK.items():
        if step in table:
            table[step] |= quick
    return parse_recipe(table)


@pytest.mark.parametrize("name", [info.name for info in qkit.list_recipes()])
def test_every_shipped_recipe_keeps_the_embeddings_of_both_towers(demo, name):
    least = {"w8": 0.999, "w6": 0.99, "w4": 0.93}[name[:2]]
    report = qkit.calibrate(demo, "demo:calib", recipe=hurried(name), overrides=FEW).report
    assert min(report.embedding_cosine.values()) > least


def test_searched_ranges_beat_full_ones_at_four_bits(demo):
    full, searched = (
        qkit.calibrate(demo, "demo:calib", bits=4, method=method, overrides=FEW).report
        for method in ("minmax", "mse")
    )
    for tower, cosine in full.embedding_cosine.items():
        assert searched.embedding_cosine[tower] > cosine


def test_a_run_of_the_demo_comes_back_with_the_same_answers(eight_bits, tmp_path):
    eight_bits.save(tmp_path / "run")
    loaded = qkit.load(tmp_path / "run")
    again = Evaluator(loaded.clip).run("demo:unseen")
    assert again.quantized == eight_bits.report.metrics[1].quantized
