# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Learned context vectors through text towers: features, gradients, refusals."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qkit.clip.prompt import POSITIONS, LearnedPrompt
from qkit.clip.prompt_layout import lay_out
from qkit.clip.prompting import (
    _run_padded,
    encode_prompted,
    phrase_vectors,
    prompt_encoder,
    token_table,
)
from qkit.clip.rebuild import rebuild
from qkit.errors import DataError, ModelError
from qkit.pipeline.student import prepare
from tests.clip.conftest import END, NAMES, features
from tests.graph.conftest import MODELS, TEXT, VISION


@pytest.mark.parametrize("position", POSITIONS)
def test_a_phrase_s_own_embeddings_give_the_phrase_s_feature(tiny, position):
    """The vectors of "a photo of a" in the slots are the sentence "a photo of a dog."."""
    vectors = phrase_vectors(tiny, "a photo of a")
    assert vectors.shape == (4, 32)
    layout = lay_out(tiny, ["dog"], 4, position, captions=False)
    text = {
        "end": "a photo of a dog.",
        "middle": "a photo dog of a.",
        "front": "dog a photo of a.",
    }[position]
    with torch.no_grad():
        wanted = tiny.model.encode_text(tiny.tokenizer([text]))
    torch.testing.assert_close(features(tiny, layout, vectors), wanted)
    torch.testing.assert_close(features(prepare(tiny).clip, layout, vectors), wanted)


@pytest.mark.parametrize("way", ["packed", "padded"])
@pytest.mark.parametrize("position", POSITIONS)
def test_the_gradient_reaches_the_vectors_through_rounding(quantized, context, position, way):
    """The released code has none there: its rounding stops the gradient."""
    layout = lay_out(quantized, NAMES, 4, position, captions=False)
    learned = nn.Parameter(context)
    encode = prompt_encoder(quantized.model, layout, shared=True)
    if way == "padded":
        encode = partial(_run_padded, quantized.model, layout)
    optimizer = torch.optim.SGD([learned], lr=0.1)
    before = F.normalize(encode(learned), dim=-1)[:, 0].sum()
    before.backward()
    assert (learned.grad.abs().amax(dim=-1) > 0).all()  # of every vector
    optimizer.step()
    after = F.normalize(encode(learned), dim=-1)[:, 0].sum()
    assert after < before


TOWERS = {
    "custom": {"text": {}, "custom_text": True},
    "projected": {"text": {"proj_bias": True}, "custom_text": True},
    "eos": {"text": {"pool_type": "eos", "eos_id": END}, "custom_text": False},
    "both ways": {"text": {"no_causal_mask": True}, "custom_text": False},
    "last": {"text": {"pool_type": "last"}, "custom_text": True},
}


def built(name):
    """A small model around one of the text towers, or CoCa."""
    if name == "coca":
        return rebuild(name, {"model_cfg": {"embed_dim": 32, **MODELS["coca"]}})
    tower = TOWERS[name]
    config = {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT | tower["text"]}
    return rebuild(name, {"model_cfg": config | {"custom_text": tower["custom_text"]}})


@pytest.mark.parametrize("name", [*TOWERS, "coca"])
def test_every_tower_of_open_clip_s_own_takes_vectors(name):
    clip = built(name)
    vectors = phrase_vectors(clip, "a photo of")
    layout = lay_out(clip, ["dog"], 3, "end", captions=False)
    with torch.no_grad():
        wanted = clip.model.encode_text(clip.tokenizer(["a photo of dog."]))
        swapped = prepare(clip)
    torch.testing.assert_close(features(swapped.clip, layout, vectors), wanted)
    torch.testing.assert_close(features(clip, layout, vectors), wanted)


def test_a_tower_without_a_token_table_is_refused_by_name(tiny):
    class HFTextEncoder(nn.Module):
        """As open_clip's, which feeds token numbers to another library's model."""

    tiny.model.text = HFTextEncoder()
    fact = r"the text tower HFTextEncoder takes no context vectors: it has no token_embedding\. Go"
    with pytest.raises(ModelError, match=fact):
        token_table(tiny.model)


def test_a_learned_prompt_encodes_any_class_but_class_specific_ones_only_theirs(
    student, context, normal
):
    shared = LearnedPrompt(context, "end", captions=False, classes=NAMES)
    found = encode_prompted(student.clip, shared, ["sky", "a new thing"])
    assert found.norm(dim=-1) == pytest.approx([1.0, 1.0])
    own = LearnedPrompt(normal(3, 4, 32), "end", captions=False, classes=NAMES)
    both = encode_prompted(student.clip, own, NAMES)
    torch.testing.assert_close(encode_prompted(student.clip, own, NAMES[::-1]), both.flip(0))
    with pytest.raises(DataError, match="class 'a new thing' has no prompt: each of the 3 classes"):
        encode_prompted(student.clip, own, ["sky", "a new thing"])
