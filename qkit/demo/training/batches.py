# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Batches of drawn scenes for either stage, and prompts for the classes they show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from qkit.clip.zero_shot import TEMPLATE_COUNTS, templates
from qkit.demo.scenes.parts import Part, item
from qkit.demo.scenes.words import SHAPES, TRAINED, class_name

NO_CLASS = -1
Tokenizer = Callable[[list[str]], Tensor]
Preprocess = Callable[[Image.Image], Tensor]
Batch = TypeVar("Batch", bound=tuple[Tensor, ...])


class Shaped(NamedTuple):
    """A batch of N pictures of single things.

    Attributes:
        pixels: ``(N, 3, 64, 64)``.
        shape: index into SHAPES, ``(N,)``.
    """

    pixels: Tensor
    shape: Tensor


class Pairs(NamedTuple):
    """A batch of N pictures and captions that belong together.

    Attributes:
        pixels: ``(N, 3, 64, 64)``.
        tokens: ``(N, context)``.
        shown: index into TRAINED of what a picture of a single thing shows, ``(N,)``; NO_CLASS for
            pictures of two things.
    """

    pixels: Tensor
    tokens: Tensor
    shown: Tensor


@dataclass(frozen=True)
class ShapedThings(Dataset[Shaped]):
    """Single things by index, drawn when they are asked for; fields as those of Scenes."""

    preprocess: Preprocess
    seed: int
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Shaped:
        """Return one picture, without the batch dimension."""
        drawn = item(Part.SHAPES, index, self.seed)
        shape = SHAPES.index(drawn.scene.things[0].combination[1])
        return Shaped(self.preprocess(drawn.render()), torch.tensor(shape))


@dataclass(frozen=True)
class Scenes(Dataset[Pairs]):
    """Training pairs by index, drawn when they are asked for.

    Attributes:
        tokenizer: texts to token numbers.
        preprocess: picture to pixels.
        seed: of the scenes.
        size: how many there are.
    """

    tokenizer: Tokenizer
    preprocess: Preprocess
    seed: int
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Pairs:
        """Return one pair, without the batch dimension."""
        drawn = item(Part.TRAIN, index, self.seed)
        things = drawn.scene.things
        shown = TRAINED.index(things[0].combination) if len(things) == 1 else NO_CLASS
        return Pairs(
            self.preprocess(drawn.render()),
            self.tokenizer([str(drawn.caption)])[0],
            torch.tensor(shown),
        )


def training_batches(scenes: Dataset[Batch], batch_size: int, workers: int) -> Iterator[Batch]:
    """Step through all scenes in order, drawn in other processes; a partial batch is dropped."""
    loader = DataLoader(
        scenes, batch_size=batch_size, num_workers=workers, drop_last=True, prefetch_factor=4
    )
    return iter(loader)


def class_prompts(tokenizer: Tokenizer) -> Tensor:
    """Every zero-shot prompt of every trained class, tokens ``(templates, classes, context)``."""
    names = [class_name(combination) for combination in TRAINED]
    forms = templates(max(TEMPLATE_COUNTS))
    return torch.stack([tokenizer([form(name) for name in names]) for form in forms])
