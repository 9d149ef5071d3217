# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The two losses against their formulas, written out."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from qkit.demo.training.batches import NO_CLASS
from qkit.demo.training.objective import caption_loss, naming_loss


@pytest.fixture
def features(normal):
    return normalize(normal(5, 8), dim=1), normalize(normal(5, 8), dim=1)


def test_caption_loss_is_the_mean_of_both_directions(features):
    images, texts = features
    total = 0.0
    for a, b in ((images, texts), (texts, images)):
        for i in range(5):
            scores = [10 * float(a[i] @ b[j]) for j in range(5)]
            total -= scores[i] - math.log(sum(math.exp(score) for score in scores))
    loss = caption_loss(images, texts, torch.tensor(10.0))
    assert float(loss) == pytest.approx(total / 10, rel=1e-5)


def test_caption_loss_is_least_when_pairs_agree(features):
    images, _ = features
    scale = torch.tensor(50.0)
    assert caption_loss(images, images, scale) < 0.1
    assert caption_loss(images, images.roll(1, 0), scale) > 10


def test_naming_loss_counts_only_pictures_of_one_thing(features):
    images, prompts = features
    shown = torch.tensor([2, NO_CLASS, 0, NO_CLASS, 4])
    expected = 0.0
    for i in (0, 2, 4):
        scores = [10 * float(images[i] @ prompts[j]) for j in range(5)]
        right = scores[int(shown[i])]
        expected -= (right - math.log(sum(math.exp(score) for score in scores))) / 3
    loss = naming_loss(images, prompts, torch.tensor(10.0), shown)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
