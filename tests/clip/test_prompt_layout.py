# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Where context vectors stand among the tokens of a text."""

import pytest
import torch

from qkit.clip.prompt_layout import PromptLayout, lay_out
from qkit.clip.prompting import (
    phrase_vectors,
)
from qkit.errors import DataError
from tests.clip.conftest import END, NAMES, START


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


def test_a_phrase_without_words_is_refused(tiny):
    with pytest.raises(DataError, match=r"phrase ' ' has no words\. Write some"):
        phrase_vectors(tiny, " ")


def test_a_layout_s_rows_are_its_texts(tiny):
    layout = lay_out(tiny, NAMES, 2, "end", captions=False)
    some = layout.rows(torch.tensor([2, 0]))
    assert isinstance(some, PromptLayout)
    assert torch.equal(some.tokens, layout.tokens[[2, 0]])
    assert torch.equal(some.slots, layout.slots[[2, 0]])
