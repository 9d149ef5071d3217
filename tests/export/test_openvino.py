# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""OpenVINO's own format, run by nothing of qkit's."""

import openvino
import pytest
import torch
import torch.nn.functional as F

from tests.export.test_onnx import COSINE, expected

pytestmark = pytest.mark.backends


@pytest.mark.parametrize("tower", ["image", "text"])
def test_features_are_those_of_the_simulated_model(exported, pixels, tokens, tower):
    made = exported("W4A4 static", "openvino")
    x = pixels if tower == "image" else tokens
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(str(made.out / f"{tower}.xml"), "CPU", options)
    found = torch.from_numpy(model([x.numpy()])[0])
    assert F.cosine_similarity(found, expected(made.run.model, tower, x)).min() >= COSINE


def test_four_bits_stay_four_bits(exported):
    made = exported("W4A4 static", "openvino")
    table = next(layer for layer in made.run.layers if layer.kind == "embedding")
    most = table.weight_shape.numel() / 2 + 4 * table.weight_shape[0] + 100_000
    assert (made.out / "text.bin").stat().st_size <= most


def test_its_int8_kernels_are_counted(exported):
    (proof,) = exported("W4A4 static", "openvino").report.proofs
    assert proof.backend.startswith("OpenVINO 20")
    for tower in proof.towers:
        assert 9 <= tower.integer_products <= tower.products  # all with a weight, at least
