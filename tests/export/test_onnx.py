# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""ONNX files against the simulated model, run by nothing of qkit's; what they hold and how."""

import json
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto

from tests.export.conftest import WAYS

pytestmark = pytest.mark.backends

COSINE = 0.9999


def run(path, x):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@torch.no_grad()
def expected(model, tower, x):
    return getattr(model, f"encode_{tower}")(x)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tower", ["image", "text"])
def test_features_are_those_of_the_simulated_model(exported, pixels, tokens, way, tower):
    made = exported(way, "onnx")
    x = pixels if tower == "image" else tokens
    found = run(made.out / f"{tower}.onnx", x)
    assert F.cosine_similarity(found, expected(made.run.model, tower, x)).min() >= COSINE


@pytest.mark.parametrize("count", [1, 3])
def test_any_batch_size(exported, pixels, count):
    made = exported("W8A8 static", "onnx")
    whole = run(made.out / "image.onnx", pixels)
    some = run(made.out / "image.onnx", pixels[:count])
    torch.testing.assert_close(some, whole[:count], rtol=1e-4, atol=1e-5)


def test_texts_shorter_than_the_context(exported, tokens):
    path = exported("W8A8 static", "onnx").out / "text.onnx"
    longest = int(tokens.argmax(1).max()) + 1
    assert longest < tokens.shape[1]
    short = run(path, tokens[:, :longest])
    torch.testing.assert_close(short, run(path, tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tower", ["image", "text"])
def test_every_layer_multiplies_integers(exported, way, tower):
    """Patches or none, 4 products and attention's two a block, and the projection."""
    made = exported(way, "onnx")
    graph = onnx.load(made.out / f"{tower}.onnx").graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    of_integers = [
        node
        for node in graph.node
        if node.op_type == "MatMul"
        and {makers.get(name) for name in node.input} == {"DequantizeLinear"}
    ]
    assert len(of_integers) == 2 * 6 + 1 + (tower == "image")
    (proof,) = [p for p in made.report.proofs if p.backend.startswith("ONNX Runtime")]
    (counts,) = [(t.integer_products, t.products) for t in proof.towers if t.tower == tower]
    assert counts == (len(of_integers),) * 2
    assert made.report.in_float == {}


BITS = {"W8A8 static": 8, "W4A4 static": 4, "w4a4-fast": 4}


@pytest.mark.parametrize("way", WAYS)
def test_weights_take_their_bits(exported, way):
    """All of them, the token table too; no float weight is left."""
    made, bits = exported(way, "onnx"), BITS[way]
    sizes = Counter()
    for tower in ("image", "text"):
        for tensor in onnx.load(made.out / f"{tower}.onnx").graph.initializer:
            sizes[tensor.data_type] += int(np.prod(tensor.dims))
    weights = sum(
        layer.weight_shape.numel() for layer in made.run.layers if layer.kind != "attention"
    )
    four_bit = sizes[TensorProto.INT4] + sizes[TensorProto.UINT4]
    held = four_bit if bits == 4 else sizes[TensorProto.INT8]
    assert held == weights
    small = 49408 + 20_000  # scales of the token table; the rest
    assert sizes[TensorProto.FLOAT] <= small
    disk = sum((made.out / f"{tower}.onnx").stat().st_size for tower in ("image", "text"))
    assert disk <= weights * bits / 8 + 4 * small + 400_000


def test_files_name_no_path_of_the_machine(exported):
    made = exported("w4a4-fast", "onnx")
    for tower in ("image", "text"):
        content = (made.out / f"{tower}.onnx").read_bytes()
        assert b"site-packages" not in content
        assert b".py" not in content


def test_the_proof_lies_beside_the_files(exported):
    made = exported("w4a4-fast", "onnx")
    stored = json.loads((made.out / "export.json").read_text())
    assert stored == json.loads(json.dumps(made.report.to_dict()))
    assert stored["passed"] is True
    assert [p["backend"].split()[0] for p in stored["proofs"]] == ["ONNX", "OpenVINO"]
    assert set(stored["files"]) == {"image.onnx", "text.onnx"}
    towers = stored["interface"]["towers"]
    assert towers["image"]["input"]["shape"] == ["batch", 3, 32, 32]
    assert towers["text"]["input"]["shape"] == ["batch", "1 to 16"]
    assert stored["interface"]["preprocessing"]["size"] in (32, [32, 32])
    assert stored["interface"]["logit_scale"] == pytest.approx(
        float(made.run.model.logit_scale.detach().exp())
    )
