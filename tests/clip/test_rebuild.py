# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A stored architecture comes back; its tokenizer is built for the first text, not before."""

import copy
import json
import pickle

import open_clip
import pytest
import torch

from qkit.clip.rebuild import LateTokenizer, rebuild
from qkit.errors import ModelError


def test_rebuilt_architecture_takes_the_state_of_the_original(tiny, pixels, tokens):
    config = json.loads(json.dumps(tiny.config))
    again = rebuild("tiny", config)
    again.model.load_state_dict(tiny.model.state_dict())
    assert torch.equal(again.model.encode_image(pixels), tiny.model.encode_image(pixels))
    assert torch.equal(again.tokenizer(["a dog", "two small cats on a red mat", "sky"]), tokens)
    assert json.dumps(again.config) == json.dumps(tiny.config)


def test_architecture_that_cannot_be_built_is_refused():
    with pytest.raises(ModelError, match=r"architecture of 'x' cannot be built: .*Check versions"):
        rebuild("x", {"model_cfg": {"embed_dim": 1}})


def test_images_are_encoded_without_a_tokenizer(tiny, pixels, monkeypatch):
    built = []
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: built.append(name))
    rebuild("tiny", tiny.config).model.encode_image(pixels)
    assert built == []


def test_tokenizer_is_built_once(tiny, monkeypatch):
    built, real = [], open_clip.get_tokenizer
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: built.append(name) or real(name))
    late = LateTokenizer("tiny", tiny.config)
    assert torch.equal(late(["a dog"]), late("a dog"))
    assert len(built) == 1


def test_tokenizer_answers_as_open_clips_own(tiny):
    late = LateTokenizer("tiny", tiny.config)
    assert late.vocab_size == tiny.tokenizer.vocab_size
    assert late.decode(late.encode("two cats")).strip() == "two cats"
    assert torch.equal(late(["a dog"], context_length=8), tiny.tokenizer(["a dog"])[:, :8])
    with pytest.raises(AttributeError, match="no_such"):
        _ = late.no_such


@pytest.mark.parametrize("again", [copy.deepcopy, lambda late: pickle.loads(pickle.dumps(late))])
def test_tokenizer_can_be_copied(tiny, again):
    late = LateTokenizer("tiny", tiny.config)
    assert torch.equal(again(late)(["a dog"]), tiny.tokenizer(["a dog"]))


def test_tokenizer_that_cannot_be_built_is_refused_at_the_first_text(tiny):
    text_cfg = tiny.config["model_cfg"]["text_cfg"] | {"tokenizer_kwargs": {"unknown": 1}}
    config = {**tiny.config, "model_cfg": {**tiny.config["model_cfg"], "text_cfg": text_cfg}}
    late = LateTokenizer("x", config)
    with pytest.raises(ModelError, match=r"tokenizer of 'x' cannot be built: .*Check versions\."):
        late(["a dog"])
