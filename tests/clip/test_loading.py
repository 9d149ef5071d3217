# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Loading without a network: what works, and the one line that is said where it does not."""

import json
import logging
import shutil

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from qkit.clip.loading import load_model
from qkit.errors import ModelError

NEEDS = "The folder needs open_clip_config.json and its weights"


def refused(spec):
    """The error for ``spec``, checked to be one line that ends as a sentence."""
    with pytest.raises(ModelError) as caught:
        load_model(spec)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert ":." not in text
    return text


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A copy of the tiny model's folder, to be damaged."""
    return shutil.copytree(tiny_folder, tmp_path / "copy")


def test_local_folder_gives_model_tokenizer_and_preprocessing(tiny, tiny_folder, pixels, tokens):
    assert tiny.spec == f"local-dir:{tiny_folder}"
    assert not tiny.model.training
    assert {p.dtype for p in tiny.model.parameters()} == {torch.float32}
    assert tokens.shape == (3, 16)
    assert tiny.preprocess(Image.new("RGB", (50, 40))).shape == (3, 32, 32)
    assert tiny.model.encode_image(pixels).shape == (4, 32)
    assert tiny.config["preprocess_cfg"]["size"] in (32, (32, 32), [32, 32])


def test_unknown_name_names_the_nearest():
    text = refused("ViT-B32:openai")
    assert text.startswith("unknown model 'ViT-B32'. Did you mean 'ViT-B-32'? Use an open_clip")


def test_name_without_a_tag_lists_the_tags():
    text = refused("ViT-B-32")
    assert text.startswith("'ViT-B-32' names no weights. Use ViT-B-32:TAG with one of: openai, ")


def test_unknown_tag_names_the_nearest():
    text = refused("ViT-B/32:openia")
    assert text.startswith(
        "'openia' is no pretrained tag or weights file of ViT-B-32. Did you mean 'openai'? Use "
    )


@pytest.mark.parametrize("scheme", ["local-dir:", "hf-hub:"])
def test_scheme_without_a_place_is_refused(scheme):
    assert scheme in refused(scheme)


def test_missing_folder(tmp_path):
    text = refused(f"local-dir:{tmp_path}/nowhere")
    assert text.startswith(f"model 'local-dir:{tmp_path}/nowhere' could not be loaded: ")
    assert NEEDS in text


def test_folder_without_config(folder):
    (folder / "open_clip_config.json").unlink()
    text = refused(f"local-dir:{folder}")
    assert "open_clip_config.json" in text.split(NEEDS)[0]
    assert NEEDS in text


def test_folder_without_weights_is_not_loaded_with_random_ones(folder):
    (folder / "open_clip_model.safetensors").unlink()
    assert NEEDS in refused(f"local-dir:{folder}")


@pytest.mark.parametrize("content", ["{", "", "null", "[]", '{"model_cfg": null}', "{}"])
def test_config_that_is_no_configuration(folder, content):
    (folder / "open_clip_config.json").write_text(content)
    assert NEEDS in refused(f"local-dir:{folder}")


@pytest.mark.parametrize("key", ["model_cfg", "vision_cfg"])
def test_config_with_a_setting_unknown_to_open_clip(folder, key):
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    place = config["model_cfg"] if key == "model_cfg" else config["model_cfg"][key]
    place["colour"] = "red"
    path.write_text(json.dumps(config))
    assert "colour" in refused(f"local-dir:{folder}")


DAMAGED = [b"", b"junk" * 30, save({"other": torch.zeros(2)})]


@pytest.mark.parametrize("content", DAMAGED, ids=["empty", "junk", "other"])
def test_folder_with_damaged_weights(folder, content):
    (folder / "open_clip_model.safetensors").write_bytes(content)
    assert NEEDS in refused(f"local-dir:{folder}")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", DAMAGED, ids=["empty", "junk", "other"])
def test_damaged_weights_file_is_not_blamed_on_the_network(
    tiny, tmp_path, monkeypatch, name, content
):
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", tiny.config["model_cfg"])
    path = tmp_path / name
    path.write_bytes(content)
    text = refused(f"tiny:{path}")
    assert text.startswith(f"model 'tiny:{path}' could not be loaded: ")
    assert "network" not in text


def test_weights_file_is_loaded_into_the_named_architecture(tiny, tiny_folder, monkeypatch, pixels):
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", tiny.config["model_cfg"])
    loaded = load_model(f"tiny:{tiny_folder}/open_clip_model.safetensors")
    assert torch.equal(loaded.model.encode_image(pixels), tiny.model.encode_image(pixels))


def test_download_that_fails_points_to_the_network(monkeypatch):
    def offline(*args, **kwargs):
        message = "Failed to download weights.\nTraceback: a long story"
        raise RuntimeError(message)

    monkeypatch.setattr(open_clip, "create_model", offline)
    text = refused("ViT-B-32:openai")
    assert text == (
        "model 'ViT-B-32:openai' could not be loaded: Failed to download weights. Check the "
        "network, or download the weights elsewhere and pass NAME:FILE or local-dir:FOLDER."
    )


@pytest.mark.parametrize(
    ("error", "cause", "remedy"),
    [
        (ImportError("no module x"), "no module x", "Install the package that this model needs."),
        (OSError(), "OSError", "Check the network, or download"),
    ],
)
def test_remedy_follows_the_cause(monkeypatch, error, cause, remedy):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(open_clip, "create_model", fail)
    assert f"could not be loaded: {cause}. {remedy}" in refused("ViT-B-32:openai")


@pytest.mark.parametrize(("tag", "quick"), [("openai", True), ("laion2b_s34b_b79k", False)])
def test_gelu_is_the_one_the_weights_were_trained_with(monkeypatch, tiny, tag, quick):
    asked = {}

    def create(name, **settings):
        asked.update(settings, name=name)
        return tiny.model

    monkeypatch.setattr(open_clip, "create_model", create)
    loaded = load_model(f"ViT-B-32:{tag}")
    assert (asked["name"], asked["pretrained"]) == ("ViT-B-32", tag)
    assert asked.get("force_quick_gelu", False) is quick
    assert loaded.config["model_cfg"].get("quick_gelu", False) is quick
    assert "quick_gelu" not in open_clip.get_model_config("ViT-B-32")


def test_model_that_encodes_no_text_is_refused(monkeypatch):
    monkeypatch.setattr(open_clip, "create_model", lambda *args, **kwargs: torch.nn.Identity())
    assert refused("ViT-B-32:openai") == (
        "'ViT-B-32:openai' is no CLIP model: it cannot encode images and texts. Use one that can."
    )


def test_logging_is_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(logging.root.manager, "disable", logging.DEBUG)
    refused(f"local-dir:{tmp_path}")
    assert logging.root.manager.disable == logging.DEBUG
