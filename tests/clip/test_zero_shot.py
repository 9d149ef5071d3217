# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Prompts and class embeddings, against open_clip's own classifier builder."""

import open_clip
import pytest
import torch

from qkit.clip.zero_shot import class_embeddings, sample_prompts, templates
from qkit.errors import DataError

NAMES = ("dog", "red car", "tree house")


@pytest.mark.parametrize("count", [7, 80])
def test_class_embeddings_equal_open_clip_s(tiny, count):
    seen = []
    with torch.no_grad():
        mine = class_embeddings(tiny, NAMES, templates(count), seen.append)
    theirs = open_clip.build_zero_shot_classifier(
        tiny.model, tiny.tokenizer, NAMES, templates(count), num_classes_per_batch=2
    )
    torch.testing.assert_close(mine, theirs.T)
    assert sum(seen) == len(NAMES) * count


def test_no_other_number_of_templates():
    with pytest.raises(DataError, match=r"no set of 8 templates\. Use one of: 7, 80"):
        templates(8)


def test_prompts_are_drawn_by_seed():
    assert sample_prompts(20, 0) == sample_prompts(20, 0)
    assert sample_prompts(20, 0) != sample_prompts(20, 1)
    assert len(set(sample_prompts(200, 0))) > 190


def test_prompts_of_given_classes_repeat_when_there_are_few():
    prompts = sample_prompts(9, 0, NAMES)
    assert len(prompts) == 9
    assert all(any(name in prompt for name in NAMES) for prompt in prompts)
