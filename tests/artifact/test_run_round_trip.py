# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Calibrate, save, load: the same integers, hence the same features bit for bit."""

import json
import shutil

import pytest
import torch
from PIL import Image

import qkit
from qkit.calibration.observe import set_mode
from qkit.errors import ArtifactError
from qkit.graph.layers import list_points
from qkit.nn.tensor_quantizer import Mode
from qkit.recipe import Recipe, SchemeRule, override, parse_recipe
from qkit.recipe.overrides import Overrides
from qkit.report.model import ModelReport
from qkit.spec import Granularity, QuantSpec, Scheme

SMALL = Overrides(samples=6, batch_size=3)
IGNORING = Recipe(
    rules=(
        SchemeRule("visual.transformer.resblocks.0.*", scheme=Scheme()),
        SchemeRule("token_embedding", scheme=Scheme()),
        SchemeRule("*.mlp.*", scheme=Scheme(weight=QuantSpec(3, True), input=QuantSpec(5, True))),
        SchemeRule("*", tower="text", scheme=Scheme(weight=QuantSpec(4, False))),
        SchemeRule(),
    )
)
RECIPES = {
    "2 bits": override(Recipe(), Overrides(bits=2)),
    "4 bits": override(Recipe(), Overrides(bits=4)),
    "8 bits": Recipe(),
    "odd bits": override(Recipe(), Overrides(weight_bits=3, act_bits=5, attn_bits=7)),
    "min-max": override(Recipe(), Overrides(bits=6, method="minmax")),
    "per token": override(Recipe(), Overrides(bits=4, act_granularity="token")),
    "per channel": override(Recipe(), Overrides(bits=4, act_granularity="channel")),
    "affine weights": Recipe(
        rules=(SchemeRule(scheme=Scheme(QuantSpec(4), QuantSpec(8), QuantSpec(8))),)
    ),
    "dynamic attention": Recipe(
        rules=(SchemeRule(scheme=Scheme(attention=QuantSpec(8, False, Granularity.TOKEN))),)
    ),
    "ignored layers": IGNORING,
}


@pytest.fixture
def calibrated(tiny, shapes):
    """Calibrate the tiny model on a few captioned images."""

    def run(recipe=None, **more):
        data = f"captions:{shapes}/captions.csv"
        return qkit.calibrate(tiny, data, recipe=recipe, overrides=SMALL, **more)

    return run


def features(model, pixels, tokens):
    with torch.no_grad():
        return model.encode_image(pixels), model.encode_text(tokens)


def shuffled_json(path):
    """Rewrite a JSON file as another program might."""
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))


@pytest.mark.parametrize("name", RECIPES)
def test_features_are_bit_identical(calibrated, tmp_path, pixels, tokens, name):
    result = calibrated(RECIPES[name])
    before = features(result.model, pixels, tokens)
    result.save(tmp_path / "run")
    run = qkit.load(tmp_path / "run")
    after = features(run.model, pixels, tokens)
    assert all(map(torch.equal, before, after))
    set_mode(run.model, Mode.OFF)
    assert not torch.equal(before[0], features(run.model, pixels, tokens)[0])


@pytest.mark.parametrize("name", RECIPES)
def test_points_and_recipe_are_the_same(calibrated, tmp_path, name):
    result = calibrated(RECIPES[name])
    result.save(tmp_path / "run")
    run = qkit.load(tmp_path / "run")
    assert run.recipe == result.recipe
    old, new = list_points(result.model), list_points(run.model)
    assert [(p.point, p.spec) for p in old] == [(p.point, p.spec) for p in new]
    for mine, other in zip(old, new, strict=True):
        assert other.mode is Mode.QUANTIZE
        if not mine.spec.dynamic:
            assert all(map(torch.equal, mine.qparams, other.qparams))
            assert [t.dtype for t in mine.qparams] == [t.dtype for t in other.qparams]


def test_the_loaded_model_is_in_eval_mode_and_knows_its_folder(calibrated, tmp_path):
    calibrated().save(tmp_path / "run")
    run = qkit.load(str(tmp_path / "run"))
    assert not run.model.training
    assert run.folder.path == tmp_path / "run"
    assert run.model is run.clip.model


def test_loading_needs_neither_the_float_model_nor_the_place(
    tmp_path, tiny_folder, shapes, pixels, tokens
):
    shutil.copytree(tiny_folder, tmp_path / "float")
    spec, data = f"local-dir:{tmp_path}/float", f"images:{shapes}/images"
    result = qkit.calibrate(spec, data, bits=4, overrides=SMALL)
    result.save(tmp_path / "run")
    shutil.rmtree(tmp_path / "float")
    (tmp_path / "run").rename(tmp_path / "moved")
    run = qkit.load(tmp_path / "moved")
    before, after = (features(model, pixels, tokens) for model in (result.model, run.model))
    assert all(map(torch.equal, before, after))
    assert run.clip.spec == spec


def test_tokenizer_and_preprocessing_come_back(calibrated, tmp_path, tiny, shapes):
    calibrated().save(tmp_path / "run")
    clip = qkit.load(tmp_path / "run").clip
    image = Image.open(shapes / "images" / "red0.png")
    assert torch.equal(clip.preprocess(image), tiny.preprocess(image))
    texts = ["a dog", "Ünïcode & more"]
    assert torch.equal(clip.tokenizer(texts), tiny.tokenizer(texts))


def test_saving_a_loaded_result_twice_gives_the_same_model_file(calibrated, tmp_path):
    result = calibrated()
    for name in ("a", "b"):
        result.save(tmp_path / name)
    one, other = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("a", "b"))
    assert one == other


def test_the_report_survives(calibrated, tmp_path, shapes):
    result = calibrated(IGNORING, evaluate=[f"classes:{shapes}/classes"])
    result.save(tmp_path / "run")
    shuffled_json(tmp_path / "run" / "report.json")
    report = qkit.load(tmp_path / "run").report
    size = (tmp_path / "run" / "model.safetensors").stat().st_size
    assert report.size == {**result.report.size, "quantized_bytes": size}
    for field in ("label", "model", "metrics", "coverage", "layers", "embedding_cosine", "timing"):
        assert getattr(report, field) == getattr(result.report, field)
    assert ModelReport.from_dict(report.to_dict()) == report


def test_the_manifest_tells_how_the_model_was_made(calibrated, tmp_path, tiny):
    result = calibrated()
    result.save(tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["model"]["spec"] == tiny.spec
    assert manifest["seed"] == 0
    assert (manifest["data"]["images"], manifest["data"]["texts"]) == (6, 6)
    assert len(manifest["data"]["digest"]) == 64
    assert parse_recipe(manifest["recipe"]) == result.recipe
    assert manifest["versions"]["torch"] == torch.__version__


def test_saving_over_a_run_needs_to_be_asked_for(calibrated, tmp_path):
    result = calibrated()
    result.save(tmp_path / "run")
    with pytest.raises(ArtifactError, match=r"run exists\. Choose another"):
        result.save(tmp_path / "run")
    result.save(tmp_path / "run", overwrite=True)
    assert qkit.load(tmp_path / "run").recipe == result.recipe


def test_the_model_given_is_left_as_it_was(tiny, calibrated, pixels, tokens):
    before = features(tiny.model, pixels, tokens)
    names = list(tiny.model.state_dict())
    calibrated()
    assert list(tiny.model.state_dict()) == names
    assert all(map(torch.equal, before, features(tiny.model, pixels, tokens)))
