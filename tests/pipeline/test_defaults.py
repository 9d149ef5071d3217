# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What is used where the user names nothing, and what is refused."""

import pytest

import qkit
from qkit.pipeline.defaults import CALIBRATION, EVALUATION, fill_in


def test_nothing_named_is_the_demo_with_all_its_parts():
    filled = fill_in(None, None, ())
    assert (filled.model, filled.data, filled.evaluate) == ("demo", CALIBRATION, EVALUATION)


def test_the_demo_model_brings_its_data():
    assert fill_in("demo", None, ()) == fill_in(None, None, ())


def test_what_is_named_is_used():
    filled = fill_in("ViT-B-32:openai", "images:photos", ["classes:val"])
    assert (filled.model, filled.data) == ("ViT-B-32:openai", "images:photos")
    assert filled.evaluate == ("classes:val",)
    assert fill_in("demo", "demo:calib", ()).evaluate == ()
    assert fill_in(None, None, ["demo:pairs"]).evaluate == ("demo:pairs",)


def test_data_without_a_model_and_a_model_without_data_are_refused(tiny):
    with pytest.raises(qkit.QkitError, match=r"images:photos are given, but no model.*--model"):
        fill_in(None, "images:photos", ())
    for model, name in (("ViT-B-32:openai", "ViT-B-32:openai"), (tiny, "ClipModel")):
        with pytest.raises(qkit.QkitError, match=rf"{name} is given, but no data.*--data"):
            fill_in(model, None, ())
