# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Run folders of models whose inputs are rounded in coordinates of their own."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

import qkit
from qkit.artifact.folder import read_run
from qkit.artifact.tensors import from_tensors, install_stored, to_tensors
from qkit.errors import ArtifactError, ModelError
from qkit.pipeline.student import give_points, prepare
from qkit.pipeline.teacher import load_teacher
from qkit.recipe import Recipe, SchemeRule
from qkit.recipe.schema import StepConfig

TRANSFORM = StepConfig("best", {"samples": 4, "rows": 128})
ROUNDING = StepConfig("gptq", {"samples": 4, "sweeps": 1})
SOME = r"re:(visual\.conv1|text_projection|.*resblocks\.0\..*)"
RULES = (SchemeRule(SOME),)  # all else stays in float
RECIPES = {
    "transform and gptq": Recipe(RULES, transform=TRANSFORM, rounding=ROUNDING),
    "transform only": Recipe(RULES, transform=TRANSFORM),
    "gptq only": Recipe(RULES, rounding=ROUNDING),
}
GRANULARITIES = {"transform and gptq": "token", "transform only": "tensor", "gptq only": "token"}
WEIGHTS = "open_clip_model.safetensors"
CHANGED = "visual.transformer.resblocks.0.mlp.c_fc.weight"


@pytest.fixture(scope="module")
def runs(tiny_folder, shapes, tmp_path_factory):
    """Makes a run of each recipe once: what calibration gave, and its folder."""
    made = {}

    def run(name):
        if name not in made:
            flags = qkit.Overrides(
                samples=4, bits=4, method="minmax", act_granularity=GRANULARITIES[name]
            )
            spec, data = f"local-dir:{tiny_folder}", f"captions:{shapes}/captions.csv"
            result = qkit.calibrate(spec, data, recipe=RECIPES[name], overrides=flags)
            path = tmp_path_factory.mktemp("runs") / "run"
            result.save(path)
            made[name] = SimpleNamespace(result=result, path=path)
        return made[name]

    return run


@pytest.fixture
def stored(runs):
    """Tensors of the run with both steps."""
    return read_run(runs("transform and gptq").path).tensors()


@pytest.fixture
def blank(runs, tiny):
    """The float model with the points of that run, before anything is installed."""
    student = prepare(tiny, copy=False)
    give_points(student, runs("transform and gptq").result.recipe)
    return student


def features(model, pixels, tokens):
    with torch.no_grad():
        return [model.encode_image(pixels), model.encode_text(tokens)]


def all_equal(found, expected):
    return [torch.equal(a, b) for a, b in zip(found, expected, strict=True)] == [True, True]


@pytest.mark.parametrize("name", RECIPES)
def test_loaded_again_both_towers_are_the_same_bit_for_bit(runs, pixels, tokens, name):
    run = runs(name)
    loaded = qkit.load(run.path)
    expected = features(run.result.model, pixels, tokens)
    assert all_equal(features(loaded.model, pixels, tokens), expected)
    assert loaded.recipe == run.result.recipe


@pytest.mark.parametrize("name", RECIPES)
def test_the_float_model_with_the_run_s_points_is_the_run_bit_for_bit(runs, pixels, tokens, name):
    run = runs(name)
    teacher = load_teacher(read_run(run.path))
    expected = features(run.result.model, pixels, tokens)
    assert all_equal(features(teacher.model, pixels, tokens), expected)
    floats = load_file(str(run.result.student.clip.spec).removeprefix("local-dir:") + f"/{WEIGHTS}")
    assert torch.equal(teacher.model.state_dict()[CHANGED], floats[CHANGED])


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("factor", [1.0 + 1e-5, -1.5])
def test_another_float_model_is_refused(runs, tiny_folder, tmp_path, name, factor):
    folder = shutil.copytree(tiny_folder, tmp_path / "another")
    state = load_file(folder / WEIGHTS)
    state[CHANGED][3] *= factor
    save_file(state, folder / WEIGHTS)
    with pytest.raises(ModelError, match=r"is not the model that .* was made of: .* differs"):
        load_teacher(read_run(runs(name).path), f"local-dir:{folder}")


def test_what_was_chosen_is_in_the_file(runs, stored):
    points = {name.partition(".transform.")[0] for name in stored if ".transform." in name}
    assert {name.rpartition(":")[2] for name in points} == {"input"}
    kinds = {name.partition(".transform.")[2] for name in stored if ".transform." in name}
    assert {"clip", "shift", "gain", "after_0", "after_1"} <= kinds
    plain = load_file(runs("gptq only").path / "model.safetensors")
    assert not [name for name in plain if ".transform." in name or name.endswith(".offset")]


def test_written_from_the_float_model_the_tensors_are_the_stored_ones(blank, stored):
    install_stored(blank.model, blank.layers, stored)
    found = to_tensors(blank.model, blank.layers)
    assert set(found) == set(stored)
    for name, tensor in stored.items():
        if name.endswith(".offset"):  # a sum, whose order depends on where tensors lie
            torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)
        else:
            assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("part", ["clip", "after_0", "after_1"])
@pytest.mark.parametrize("fill", [from_tensors, install_stored])
def test_a_part_of_a_transform_that_is_missing(blank, stored, part, fill):
    del stored[next(name for name in stored if name.endswith(f".transform.{part}"))]
    with pytest.raises(ArtifactError, match="the stored tensors do not fit the model"):
        fill(blank.model, blank.layers, stored)


@pytest.mark.parametrize("part", ["shift", "gain", "after_1"])
def test_a_part_of_a_transform_of_another_size(blank, stored, part):
    name = next(name for name in stored if name.endswith(f".transform.{part}"))
    stored[name] = stored[name][:-1].contiguous()
    with pytest.raises(ArtifactError, match="the stored tensors do not fit the model"):
        from_tensors(blank.model, blank.layers, stored)


def test_a_transform_of_an_input_that_is_not_there(blank, stored):
    some = next(name for name in stored if name.endswith(".transform.clip"))
    stored[f"nowhere{some[some.index(':') :]}"] = stored[some]
    with pytest.raises(ArtifactError, match=r"the stored tensors do not fit .*nowhere:input"):
        from_tensors(blank.model, blank.layers, stored)


@pytest.mark.parametrize("part", ["shift", "gain", "after_0"])
def test_a_file_that_lost_a_transform_s_tensor_does_not_load(runs, tmp_path, part):
    path = shutil.copytree(runs("transform and gptq").path, tmp_path / "run")
    tensors = load_file(path / "model.safetensors")
    del tensors[next(name for name in tensors if name.endswith(f".transform.{part}"))]
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"model.safetensors differs from what was written"):
        qkit.load(path)
