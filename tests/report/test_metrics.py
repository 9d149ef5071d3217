# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Accuracy, recall and agreement, against loops that spell out what they mean."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from qkit.report.metrics import classification, retrieval, top_agreement

seeds = st.integers(0, 10**6)
RECALLS = (1, 5, 10)


def features(seed, count, dim=6):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, dim, generator=generator), dim=-1)


def rank(query, others, wanted):
    """Place of the best of the ``wanted`` among ``others``, 1 for the nearest."""
    scores = [float(query @ other) for other in others]
    best = max(scores[i] for i in wanted)
    return 1 + sum(score > best for score in scores)


@settings(deadline=None, max_examples=60)
@given(seed=seeds, images=st.integers(1, 12), classes=st.integers(1, 9))
def test_accuracy_equals_counting(seed, images, classes):
    x, names = features(seed, images), features(seed + 1, classes)
    labels = torch.randint(classes, (images,), generator=torch.Generator().manual_seed(seed))
    ranks = [rank(q, names, [int(label)]) for q, label in zip(x, labels, strict=True)]
    found = classification(x, names, labels)
    assert found == {
        "top1": pytest.approx(sum(r <= 1 for r in ranks) / images),
        "top5": pytest.approx(sum(r <= 5 for r in ranks) / images),
    }


@pytest.mark.parametrize("classes", [1, 2, 4, 5])
def test_with_five_classes_or_fewer_everything_is_among_the_top_five(classes):
    labels = torch.arange(classes)
    assert classification(features(0, classes), features(1, classes), labels)["top5"] == 1.0


def test_accuracy_of_a_worked_case():
    names = torch.eye(6)
    images = torch.stack([names[0], 0.9 * names[1] + names[2], names[3], -names[4] + names[5]])
    assert classification(images, names, torch.tensor([0, 1, 3, 4])) == {"top1": 0.5, "top5": 0.75}


@st.composite
def captioned(draw):
    """Images with one to four texts each, in any order."""
    counts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=14))
    owner = [i for i, count in enumerate(counts) for _ in range(count)]
    return len(counts), draw(st.permutations(owner))


@settings(deadline=None, max_examples=60)
@given(seed=seeds, owners=captioned())
def test_recall_equals_counting(seed, owners):
    count, owner = owners
    images, texts = features(seed, count), features(seed + 1, len(owner))
    mine = [[i for i, image in enumerate(owner) if image == n] for n in range(count)]
    to_text = [rank(q, texts, wanted) for q, wanted in zip(images, mine, strict=True)]
    to_image = [rank(q, images, [n]) for q, n in zip(texts, owner, strict=True)]
    found = retrieval(images, texts, torch.tensor(owner))
    for name, ranks in (("image_to_text", to_text), ("text_to_image", to_image)):
        expected = {f"r{k}": sum(r <= k for r in ranks) / len(ranks) for k in RECALLS}
        assert found[name] == pytest.approx(expected)


def test_any_of_an_image_s_texts_counts_but_every_text_is_a_query():
    images = torch.eye(2)
    texts = torch.tensor([[1.0, 0.0], [0.1, 0.9], [0.0, 1.0]])
    found = retrieval(images, texts, torch.tensor([0, 0, 1]))
    assert found["image_to_text"]["r1"] == 1.0
    assert found["text_to_image"]["r1"] == pytest.approx(2 / 3)
    assert found["text_to_image"]["r5"] == 1.0


def test_recall_at_ten_looks_no_further_than_ten():
    images = features(0, 1)
    texts = torch.cat([images.repeat(10, 1), -images])
    owner = torch.tensor([1] * 10 + [0])
    both = torch.cat([images, features(9, 1)])
    assert retrieval(both, texts, owner)["image_to_text"]["r10"] == 0.5


@settings(deadline=None, max_examples=60)
@given(seed=seeds, sizes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1))
def test_agreement_equals_counting(seed, sizes):
    generator = torch.Generator().manual_seed(seed)
    first = [torch.rand(size, generator=generator) for size in sizes]
    second = [torch.rand(size, generator=generator) for size in sizes]
    rows = [pair for a, b in zip(first, second, strict=True) for pair in zip(a, b, strict=True)]
    same = [a.tolist().index(max(a)) == b.tolist().index(max(b)) for a, b in rows]
    assert top_agreement(first, second) == pytest.approx(sum(same) / len(same))
    assert top_agreement(first, first) == 1.0


def test_agreement_does_not_mind_the_scale():
    scores = [torch.rand(4, 5, generator=torch.Generator().manual_seed(2))]
    assert top_agreement(scores, [0.01 * scores[0] - 3]) == 1.0
    assert top_agreement(scores, [-scores[0]]) == 0.0
