# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The tokens that texts about the scenes can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from qkit.clip.zero_shot import TEMPLATE_COUNTS, templates
from qkit.demo.scenes.captions import all_words
from qkit.demo.scenes.parts import CLASS_NAMES

Tokenizer = Callable[[list[str]], Tensor]


def used_tokens(tokenizer: Tokenizer) -> list[int]:
    """Numbers of all tokens of captions and of all zero-shot prompts, in order."""
    prompts = (form(name) for form in _forms() for name in CLASS_NAMES)
    return _numbers(tokenizer, [*all_words(), *prompts])


def _forms() -> Iterable[Callable[[str], str]]:
    return (form for count in TEMPLATE_COUNTS for form in templates(count))


def _numbers(tokenizer: Tokenizer, texts: list[str]) -> list[int]:
    return sorted({int(number) for number in tokenizer(texts).unique()})
