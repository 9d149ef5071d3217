# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Text towers on texts without their padding, against open_clip's towers on the whole context."""

from copy import deepcopy

import pytest
import torch

from qkit.clip.rebuild import rebuild
from qkit.pipeline.student import give_points, prepare
from qkit.recipe import Recipe
from tests.graph.conftest import TEXT, VISION

TEXTS = ["a dog", "two small cats on a red mat", ""]
CUT = {
    "vit": {},
    "projected": {"proj_bias": True},
    "eos": {"pool_type": "eos", "eos_id": 49407},
}
WHOLE = {
    "coca": {"embed_cls": True},
    "both ways": {"no_causal_mask": True},
    "last": {"pool_type": "last"},
    "first": {"pool_type": "first"},
}


def model_of(text, *, custom):
    config = {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT | text}
    return rebuild("tiny", {"model_cfg": config | {"custom_text": custom}})


@pytest.fixture(params=[False, True], ids=["CLIP", "CustomTextCLIP"])
def custom(request):
    return request.param


@pytest.mark.parametrize("text", CUT.values(), ids=CUT)
def test_a_causal_tower_gives_the_same_features_without_padding(text, custom):
    clip = model_of(text, custom=custom)
    whole = clip.tokenizer(TEXTS)
    with torch.no_grad():
        before = deepcopy(clip.model).encode_text(whole)
        student = prepare(clip)
        short = student.clip.tokenize(TEXTS)
        after = student.model.encode_text(short)
        padded = student.model.encode_text(whole)
    assert short.shape == (3, 9)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(padded, before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("text", WHOLE.values(), ids=WHOLE)
def test_a_tower_that_looks_beyond_a_text_s_end_gets_the_whole_context(text, custom):
    student = prepare(model_of(text, custom=custom or text.get("embed_cls", False)))
    if text == {"embed_cls": True}:
        assert student.model.text.cls_emb is not None
    tokens = student.clip.tokenize(TEXTS)
    assert torch.equal(tokens, student.clip.tokenizer(TEXTS))


def test_a_model_as_open_clip_loads_it_gets_the_whole_context(build):
    clip = build("vit")
    assert clip.tokenize(TEXTS).shape == (3, TEXT["context_length"])


def test_the_feature_of_a_text_does_not_hang_on_how_long_its_neighbours_are(build):
    student = prepare(build("vit"))
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    with torch.no_grad():
        together = student.model.encode_text(student.clip.tokenize(["a dog", long]))
        alone = student.model.encode_text(student.clip.tokenize(["a dog"]))
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=1e-5)


def test_swapping_keeps_the_class_of_the_model_below_open_clip_s(architecture):
    before = type(architecture.model)
    student = prepare(architecture)
    assert isinstance(student.model, before)
    give_points(student, Recipe())  # every layer is still found
