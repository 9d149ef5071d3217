# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A run's float model with the run's points: both models of the comparison in one."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import qkit
from qkit.artifact.folder import read_run
from qkit.calibration.observe import set_mode
from qkit.errors import ArtifactError, ModelError
from qkit.graph.layers import list_points
from qkit.nn.tensor_quantizer import Mode
from qkit.pipeline.teacher import load_teacher
from qkit.recipe import Recipe, SchemeRule
from qkit.spec import QuantSpec, Scheme

RECIPES = {
    "4 bits": {"bits": 4},
    "per token": {"bits": 3, "overrides": qkit.Overrides(samples=4, act_granularity="token")},
    "weights only": {"recipe": Recipe(rules=(SchemeRule(scheme=Scheme(QuantSpec(4, True))),))},
}
WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture(scope="module")
def run(save_run):
    return save_run()


@pytest.fixture
def another(tiny_folder, tmp_path):
    """The tiny model with some weights changed, as ``local-dir:``."""

    def change(function):
        folder = tmp_path / "another"
        shutil.copytree(tiny_folder, folder)
        state = load_file(folder / WEIGHTS)
        function(state)
        save_file(state, folder / WEIGHTS)
        return f"local-dir:{folder}"

    return change


def features(model, pixels, tokens):
    with torch.no_grad():
        return torch.cat([model.encode_image(pixels), model.encode_text(tokens)])


@pytest.mark.parametrize("name", RECIPES)
def test_quantized_it_is_the_run_bit_for_bit(save_run, pixels, tokens, name):
    path = save_run(**RECIPES[name])
    teacher = load_teacher(read_run(path))
    assert {point.mode for point in list_points(teacher.model)} == {Mode.QUANTIZE}
    run = qkit.load(path)
    assert torch.equal(features(teacher.model, pixels, tokens), features(run.model, pixels, tokens))
    assert [layer.name for layer in teacher.layers] == [layer.name for layer in run.layers]


def test_switched_off_it_is_the_float_model(run, tiny, pixels, tokens):
    teacher = load_teacher(read_run(run))
    set_mode(teacher.model, Mode.OFF)
    found, known = (features(model, pixels, tokens) for model in (teacher.model, tiny.model))
    assert ((found - known).norm() / known.norm()).item() < 1e-5
    teacher_state = teacher.model.state_dict()
    name = "visual.transformer.resblocks.0.mlp.c_fc.weight"
    assert torch.equal(teacher_state[name], tiny.model.state_dict()[name])


def refuse(run, model, *parts):
    with pytest.raises(ModelError) as caught:
        load_teacher(read_run(run), model)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("name", "differs"),
    [
        ("visual.ln_pre.weight", "visual.ln_pre.weight differs"),
        ("visual.transformer.resblocks.0.mlp.c_fc.weight", "mlp.c_fc.weight.packed differs"),
        ("transformer.resblocks.1.attn.in_proj_weight", "_proj.weight.packed differs"),
        ("logit_scale", "logit_scale differs"),
    ],
)
def test_the_same_architecture_with_other_weights_is_refused(run, another, name, differs):
    model = another(lambda state: state[name].mul_(-1.5))
    refuse(run, model, f"{model} is not the model that {run} was made of", differs, "--model")


def test_another_architecture_is_refused(run):
    with pytest.raises(qkit.QkitError) as caught:
        load_teacher(read_run(run), "demo")
    assert "\n" not in str(caught.value)


def test_a_model_that_has_moved_is_found_by_its_new_name(save_run, tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "old")
    path = save_run(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    refuse(path, None, f"local-dir:{tmp_path / 'old'}", "could not be loaded")
    teacher = load_teacher(read_run(path), f"local-dir:{tmp_path / 'new'}")
    assert teacher.clip.spec == f"local-dir:{tmp_path / 'new'}"


def test_a_missing_model_is_named(run, tmp_path):
    refuse(run, f"local-dir:{tmp_path / 'none'}", str(tmp_path / "none"), "could not be loaded")


def test_a_damaged_run_is_not_blamed_on_the_model(run, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(run, path)
    model = path / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-8])
    with pytest.raises(ArtifactError, match=r"run is damaged: model.safetensors differs"):
        load_teacher(read_run(path))
