# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Texts cut where they end have the features of padded ones."""

import itertools

import pytest
import torch

from qkit.clip.layout import swap_clip
from qkit.clip.rebuild import rebuild
from qkit.clip.text import ShortTextCLIP
from qkit.clip.unpadded import PORTION, UnpaddedCLIP, drop_padding, in_portions
from tests.graph.conftest import MODELS, stir

LENGTHS = [5, 1, 9, 3, 3, 12, 2] * 5


@pytest.fixture(params=["vit", "custom", "coca"])
def clip(request):
    clip = rebuild(request.param, {"model_cfg": {"embed_dim": 32, **MODELS[request.param]}})
    stir(clip.model)
    swap_clip(clip.model)
    return clip


@pytest.fixture
def captions(clip):
    """More texts than a portion holds, of mixed lengths."""
    assert len(LENGTHS) > 2 * PORTION
    return clip.tokenizer([" ".join(["dog", "cat"][i % 2] for i in range(n)) for n in LENGTHS])


def test_features_are_those_of_the_padded_texts(clip, captions):
    with torch.no_grad():
        expected = clip.model.encode_text(captions)
        expected_unit = clip.model.encode_text(captions, normalize=True)
        drop_padding(clip.model)
        found = clip.model.encode_text(captions)
        unit = clip.model.encode_text(captions, normalize=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(unit, expected_unit, rtol=1e-4, atol=1e-5)


def test_similar_lengths_go_together_and_nothing_follows_the_longest(tiny):
    swap_clip(tiny.model)
    captions = tiny.tokenizer([" ".join(n * ["dog"]) for n in LENGTHS])
    seen = []

    def encode(tokens):
        seen.append(tokens)
        return tokens.sum(1, keepdim=True)

    rows = in_portions(tiny.model, captions, encode)
    assert torch.equal(rows, captions.sum(1, keepdim=True))
    assert [len(part) for part in seen] == [16, 16, 3]
    ends = [part.argmax(1) for part in seen]
    assert [part.shape[1] for part in seen] == [int(e.max()) + 1 for e in ends]
    assert all(a.max() <= b.min() for a, b in itertools.pairwise(ends))


def test_no_text_at_all(tiny):
    swap_clip(tiny.model)
    assert in_portions(tiny.model, torch.zeros(0, 16, dtype=torch.long), lambda t: t).shape == (
        0,
        16,
    )


def test_a_tower_that_looks_beyond_gets_all_tokens():
    tokens = torch.ones(2, 16, dtype=torch.long)
    assert in_portions(torch.nn.Identity(), tokens, lambda t: t) is tokens


def test_only_known_towers_change(tiny):
    drop_padding(tiny.model)
    assert not isinstance(tiny.model, ShortTextCLIP)
    swap_clip(tiny.model)
    drop_padding(tiny.model)
    assert type(tiny.model) is UnpaddedCLIP
