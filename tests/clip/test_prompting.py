# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Learned context vectors in text towers: the layout, the slow way, and the packed one."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import qkit
from qkit.clip.loading import load_model
from qkit.clip.model import ClipModel, rebuild
from qkit.clip.packing import pack
from qkit.clip.prompt import POSITIONS, LearnedPrompt
from qkit.clip.prompt_layout import PromptLayout, lay_out
from qkit.clip.prompting import (
    _run_padded,
    encode_prompted,
    phrase_vectors,
    prompt_encoder,
    token_table,
)
from qkit.clip.text import text_ends
from qkit.errors import DataError, ModelError
from qkit.pipeline.student import prepare
from tests.graph.conftest import MODELS, TEXT, VISION

NAMES = ("dog", "two small cats", "sky")
START, STOP, END = 49406, 269, 49407


@pytest.fixture
def student(tiny):
    """The tiny model, swapped."""
    return prepare(tiny)


@pytest.fixture(scope="module")
def packing_clip(tiny_folder):
    """The tiny model, swapped; nothing changes it."""
    return prepare(load_model(f"local-dir:{tiny_folder}")).clip


@pytest.fixture
def context(normal):
    """Four vectors, large enough to matter."""
    return normal(4, 32) / 5


def features(clip, layout, context):
    with torch.no_grad():
        return prompt_encoder(clip.model, layout, shared=context.ndim == 2)(context)


@pytest.mark.parametrize(
    ("position", "slots", "name"), [("end", 1, 5), ("middle", 1, 3), ("front", 4, 1)]
)
def test_the_text_stands_where_it_should(tiny, position, slots, name):
    layout = lay_out(tiny, NAMES, 4, position, captions=False)
    plain = tiny.tokenizer([f"{text}." for text in NAMES])
    for row, columns, text in zip(layout.tokens, layout.slots, plain, strict=True):
        assert row[0] == START
        rest = torch.ones(len(row), dtype=torch.bool)
        rest[columns] = False
        kept = row[rest]  # without the vectors it is the sentence as it would be anyway
        assert torch.equal(kept, text[: len(kept)])
    words = tiny.tokenizer(["two small cats"])[0, 1:4]
    assert torch.equal(layout.tokens[1, name : name + 3], words)
    assert layout.slots[1, 0] == slots
    assert layout.slots.shape == (3, 4)


def test_captions_end_as_they_are_and_are_cut(tiny):
    long = " ".join(["word"] * 30)
    layout = lay_out(tiny, ["a dog", long], 4, "end", captions=True)
    dog = tiny.tokenizer(["a dog"])[0]
    assert torch.equal(layout.tokens[0, 5:8], dog[1:4])
    assert layout.tokens[0, 7] == END
    assert layout.tokens[1, -1] == END
    assert layout.tokens.shape == (2, 16)


def test_a_class_name_that_does_not_fit_is_named(tiny):
    fact = r"class 'a b c' does not fit: its name takes 4 .* 12 are learned, .* room for 14\."
    with pytest.raises(DataError, match=fact + r" Use --context 10 or less, or a shorter name"):
        lay_out(tiny, ["sky", "a b c"], 12, "end", captions=False)
    with pytest.raises(DataError, match=r"Shorten the name\.$"):
        lay_out(tiny, [" ".join(["word"] * 30)], 1, "end", captions=False)
    lay_out(tiny, ["a b c"], 10, "end", captions=False)


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


def test_a_phrase_without_words_is_refused(tiny):
    with pytest.raises(DataError, match=r"phrase ' ' has no words\. Write some"):
        phrase_vectors(tiny, " ")


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("classes", [(), (3,)], ids=["shared", "class-specific"])
def test_packed_texts_have_the_features_of_whole_ones(tiny, student, normal, position, classes):
    context = normal(*classes, 4, 32) / 5
    layout = lay_out(tiny, NAMES, 4, position, captions=False)
    with torch.no_grad():
        wanted = _run_padded(tiny.model, layout, context)  # open_clip's own tower, all columns
    found = features(student.clip, layout, context)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def quantized(save_run) -> ClipModel:
    """The tiny model at 8 bits."""
    clip = qkit.load(save_run(bits=8)).clip
    clip.model.requires_grad_(False)
    return clip


def test_quantized_they_have_them_too(tiny, quantized, context):
    layout = lay_out(tiny, NAMES, 4, "end", captions=False)
    with torch.no_grad():
        wanted = _run_padded(quantized.model, layout, context)
        in_float = _run_padded(tiny.model, layout, context)
    found = features(quantized, layout, context)
    assert F.cosine_similarity(found, wanted).min() > 0.9999
    assert F.cosine_similarity(found, in_float).max() < 0.99999  # it was rounded


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
        assert len(one.tokens) <= 256 or len(one.ends) == 1
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


def test_a_layout_s_rows_are_its_texts(tiny):
    layout = lay_out(tiny, NAMES, 2, "end", captions=False)
    some = layout.rows(torch.tensor([2, 0]))
    assert isinstance(some, PromptLayout)
    assert torch.equal(some.tokens, layout.tokens[[2, 0]])
    assert torch.equal(some.slots, layout.slots[[2, 0]])
