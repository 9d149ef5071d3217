# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The tokens that texts about the scenes can hold."""

from __future__ import annotations

from qkit.clip.zero_shot import TEMPLATE_COUNTS, templates
from qkit.demo.scenes.captions import all_words
from qkit.demo.scenes.parts import CLASS_NAMES
from qkit.demo.training.batches import Tokenizer


def used_tokens(tokenizer: Tokenizer) -> list[int]:
    """Numbers of all tokens of captions and of all zero-shot prompts, in order."""
    forms = [form for count in TEMPLATE_COUNTS for form in templates(count)]
    prompts = [form(name) for form in forms for name in CLASS_NAMES]
    numbers: list[int] = tokenizer([*all_words(), *prompts]).unique().tolist()
    return numbers
