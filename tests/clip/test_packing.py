# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Texts packed behind what they share, against the same texts run whole."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from qkit.clip.loading import load_model
from qkit.clip.packing import pack
from qkit.clip.prompt import POSITIONS
from qkit.clip.prompt_layout import lay_out
from qkit.clip.prompting import (
    _run_padded,
)
from qkit.clip.text import text_ends
from qkit.pipeline.student import prepare
from tests.clip.conftest import NAMES, features


@pytest.fixture(scope="module")
def packing_clip(tiny_folder):
    """The tiny model, swapped; nothing changes it."""
    return prepare(load_model(f"local-dir:{tiny_folder}")).clip


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("classes", [(), (3,)], ids=["shared", "class-specific"])
def test_packed_texts_have_the_features_of_whole_ones(tiny, student, normal, position, classes):
    context = normal(*classes, 4, 32) / 5
    layout = lay_out(tiny, NAMES, 4, position, captions=False)
    with torch.no_grad():
        wanted = _run_padded(tiny.model, layout, context)  # open_clip's own tower, all columns
    found = features(student.clip, layout, context)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_quantized_they_have_them_too(tiny, quantized, context):
    layout = lay_out(tiny, NAMES, 4, "end", captions=False)
    with torch.no_grad():
        wanted = _run_padded(quantized.model, layout, context)
        in_float = _run_padded(tiny.model, layout, context)
    found = features(quantized, layout, context)
    assert F.cosine_similarity(found, wanted).min() > 0.9999
    assert F.cosine_similarity(found, in_float).max() < 0.99999  # it was rounded


@given(
    names=st.lists(
        st.lists(st.sampled_from("abc"), min_size=1, max_size=4), min_size=1, max_size=9
    ),
    position=st.sampled_from(POSITIONS),
    vectors=st.integers(1, 5),
    shared=st.booleans(),
)
def test_a_packed_text_sees_itself_up_to_where_it_is_and_nothing_else(
    packing_clip, names, position, vectors, shared
):
    """What a text's last token sees, sorted by position, is the text, whatever the others are."""
    texts = [" ".join(words) for words in names]
    layout = lay_out(packing_clip, texts, vectors, position, captions=False)
    ends = text_ends(packing_clip.model, layout.tokens)
    row = 0
    for one in pack(layout, ends, shared=shared):
        assert len(one.tokens) <= 128 or len(one.ends) == 1
        assert (one.mask.diagonal() == 0).all()
        content = one.tokens.clone()
        content[one.filled] = -1 - one.vectors
        for end in one.ends:
            seen = (one.mask[end] == 0).nonzero()[:, 0]
            assert torch.equal(one.positions[seen], torch.arange(len(seen)))
            whole = layout.tokens[row].clone()
            own = torch.arange(vectors) + (0 if shared else row * vectors)
            whole[layout.slots[row]] = -1 - own
            assert torch.equal(content[seen], whole[: ends[row] + 1])
            row += 1
    assert row == len(texts)


def test_texts_that_fill_several_sequences_come_back_in_order(tiny, student, context):
    texts = [f"number {i} of many" for i in range(60)]
    layout = lay_out(tiny, texts, 4, "front", captions=False)
    assert len(pack(layout, text_ends(student.model, layout.tokens), shared=True)) > 1
    with torch.no_grad():
        wanted = _run_padded(tiny.model, layout, context)
    torch.testing.assert_close(features(student.clip, layout, context), wanted)


def test_captions_are_packed_too(tiny, student, context):
    captions = ["a dog on a mat.", "sky", "a dog"]
    layout = lay_out(tiny, captions, 4, "end", captions=True)
    with torch.no_grad():
        wanted = _run_padded(tiny.model, layout, context)
    torch.testing.assert_close(features(student.clip, layout, context), wanted)
