# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The stored token rows are enough for everything that the demo says."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkit.clip.rebuild import rebuild
from qkit.demo.checkpoint import read_config
from qkit.demo.scenes.parts import Part, item
from qkit.demo.training.vocabulary import used_tokens

END = 49407


@pytest.fixture(scope="module")
def tokenizer():
    return rebuild("demo", read_config()).tokenizer


@pytest.fixture(scope="module")
def used(tokenizer):
    return set(used_tokens(tokenizer))


@settings(deadline=None, max_examples=200)
@given(
    part=st.sampled_from([Part.TRAIN, Part.CALIB, Part.PAIRS]),
    index=st.integers(0, 2**40),
    seed=st.integers(0, 2**20),
)
def test_captions_fit_the_context_and_use_only_stored_rows(tokenizer, used, part, index, seed):
    tokens = tokenizer([item(part, index, seed).caption])[0].tolist()
    assert END in tokens, "the caption is cut off"
    assert set(tokens) <= used


def test_the_stored_rows_are_few(used):
    assert 80 < len(used) < 200
