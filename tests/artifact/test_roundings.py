# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Run folders of models whose weights are not rounded to the nearest."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import qkit
from qkit.artifact.folder import read_run
from qkit.calibration.install import install_roundings
from qkit.errors import ModelError
from qkit.nn.layer import QuantLayer
from qkit.pipeline.teacher import load_teacher
from qkit.spec import Rounding

FIXED = "visual.transformer.resblocks.0.mlp.c_fc"
WEIGHTS = "open_clip_model.safetensors"


def fixed(layer):
    """Every second integer one lower, and a correction."""
    point = layer.weight_quantizer
    levels = point.integers(layer.module.weight.detach())
    levels[::2] = (levels[::2] - 1).clamp(min=point.spec.quant_min)
    return Rounding(levels, torch.linspace(-0.1, 0.1, len(levels)))


@pytest.fixture
def saved(tiny_folder, shapes, tmp_path):
    """A run whose linears and convolution have integers and corrections of their own."""
    spec, data = f"local-dir:{tiny_folder}", f"captions:{shapes}/captions.csv"
    flags = qkit.Overrides(samples=4, method="minmax", bits=4)
    result = qkit.calibrate(spec, data, overrides=flags)
    layers = [la for la in result.student.layers if isinstance(la.module, QuantLayer)]
    layers = [la for la in layers if la.kind != "embedding"]
    roundings = {la.weight_quantizer.point: fixed(la) for la in layers}
    install_roundings(result.model, roundings)
    result.save(tmp_path / "run")
    return result, tmp_path / "run"


def features(model, pixels, tokens):
    with torch.no_grad():
        return torch.cat([model.encode_image(pixels), model.encode_text(tokens)])


def test_loaded_again_it_is_the_same_model_bit_for_bit(saved, pixels, tokens):
    result, path = saved
    expected = features(result.model, pixels, tokens)
    assert torch.equal(features(qkit.load(path).model, pixels, tokens), expected)


def test_the_float_model_with_the_run_s_integers_is_that_model_too(saved, pixels, tokens):
    result, path = saved
    teacher = load_teacher(read_run(path))
    expected = features(result.model, pixels, tokens)
    assert torch.equal(features(teacher.model, pixels, tokens), expected)


def test_another_float_model_is_refused_though_its_integers_would_be_the_same(
    saved, tiny_folder, tmp_path
):
    folder = shutil.copytree(tiny_folder, tmp_path / "another")
    state = load_file(folder / WEIGHTS)
    state[f"{FIXED}.weight"][3, 5] += 1e-6
    save_file(state, folder / WEIGHTS)
    with pytest.raises(ModelError, match=rf"{FIXED}:weight\.source differs"):
        load_teacher(read_run(saved[1]), f"local-dir:{folder}")


def test_nearest_integers_are_stored_as_before(save_run):
    names = load_file(save_run() / "model.safetensors")
    assert not [name for name in names if name.endswith((".source", ".correction", ".levels"))]
