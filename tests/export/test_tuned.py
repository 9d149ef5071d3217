# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A fine-tuned run: the adapter goes into the image tower, the prompt into class embeddings."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import qkit
from qkit.p4q.config import AdapterConfig, P4QConfig, PromptConfig
from qkit.pipeline.finetune.finetune import finetune_p4q
from tests.export.test_onnx import run

pytestmark = pytest.mark.backends

QUICK = P4QConfig(PromptConfig(4, rate=0.05), AdapterConfig(rate=1e-2), epochs=1, batch_size=5)


def test_adapter_and_prompt(save_run, shapes, pixels, tmp_path):
    path = save_run()
    finetune_p4q(path, f"classes:{shapes / 'classes'}", shots=3, config=QUICK).save(
        tmp_path / "tuned"
    )
    tuned = qkit.load(tmp_path / "tuned")
    report = qkit.export(tmp_path / "tuned", "onnx", tmp_path / "out", samples=5)
    assert report.in_float == {}  # the adapter, too, multiplies integers
    found = run(tmp_path / "out" / "image.onnx", pixels)
    with torch.no_grad():
        expected = tuned.model.encode_image(pixels)
        plain = qkit.load(path).model.encode_image(pixels)
    assert F.cosine_similarity(found, expected).min() >= 0.9999
    assert (found - plain).abs().max() > 10 * (found - expected).abs().max()
    classes = load_file(tmp_path / "out" / "classes.safetensors")["embeddings"]
    names = report.interface["classes"]
    assert sorted(names) == ["blue", "green", "red"]
    torch.testing.assert_close(classes, tuned.class_embeddings(names))
    assert report.files["classes.safetensors"] > 0


def test_other_runs_have_no_classes(exported):
    made = exported("W8A8 static", "onnx")
    assert made.report.interface["classes"] == []
    assert not (made.out / "classes.safetensors").exists()
