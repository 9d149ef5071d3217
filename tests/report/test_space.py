# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Embedding spaces compared, against loops that spell out what each figure means."""

from dataclasses import astuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr

import qkit.report.space
from qkit.report.space import BINS, Confidence, Embeddings, churn, compare_spaces, divergence

SCALE = 20.0
seeds = st.integers(0, 10**6)
moderate = settings(deadline=None, max_examples=40)


def values(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def embeddings(seed, images, texts, dim=6):
    both = values(seed, images, dim), values(seed + 1, texts, dim)
    return Embeddings(*(F.normalize(features, dim=-1) for features in both))


def disturbed(space, by=0.2):
    return Embeddings(*(F.normalize(x + by * values(7, *x.shape), dim=-1) for x in space))


@pytest.fixture
def before():
    return embeddings(3, images=23, texts=11)


@pytest.fixture
def after(before):
    return disturbed(before)


@moderate
@given(seed=seeds, images=st.integers(1, 9), texts=st.integers(1, 12))
def test_divergence_is_the_mean_relative_entropy(seed, images, texts):
    first, second = (3 * values(seed + i, images, texts).double() for i in range(2))
    entropies = rel_entr(first.softmax(-1).numpy(), second.softmax(-1).numpy()).sum(-1)
    assert divergence(first, second) == pytest.approx(entropies.mean(), abs=1e-9)


@moderate
@given(seed=seeds, images=st.integers(1, 9), texts=st.integers(1, 30))
def test_churn_counts_what_left_the_top(seed, images, texts):
    first, second = values(seed, images, texts), values(seed + 1, images, texts)
    count = 10 if texts >= 20 else max(1, texts // 2)

    def top(row):
        return set(sorted(range(texts), key=lambda i: -row[i])[:count])

    pairs = zip(first.tolist(), second.tolist(), strict=True)
    gone = sum(len(top(a) - top(b)) for a, b in pairs)
    assert churn(first, second) == pytest.approx(gone / (count * images))


@moderate
@given(seed=seeds, parts=st.lists(st.integers(1, 20), min_size=1, max_size=4))
def test_calibration_error_equals_a_loop_over_bins(seed, parts):
    classes, found, rows = 4, Confidence(), []
    for number, size in enumerate(parts):
        logits = 2 * values(seed + number, size, classes).double()
        labels = (logits + values(seed - 1 - number, size, classes)).argmax(-1)
        found.add(logits, labels)
        answers = zip(logits.softmax(-1).tolist(), labels.tolist(), strict=True)
        rows += [(max(row), row.index(max(row)) == label) for row, label in answers]
    error = 0.0
    for i in range(BINS):
        mine = [row for row in rows if i / BINS < row[0] <= (i + 1) / BINS]
        error += abs(sum(confidence - right for confidence, right in mine))
    assert BINS == 15
    assert found.error == pytest.approx(error / len(rows), abs=1e-12)


@pytest.mark.parametrize(("label", "error"), [(0, 0.0), (1, 1.0)])
def test_a_sure_answer_is_wholly_right_or_wholly_wrong(label, error):
    found = Confidence()
    found.add(torch.tensor([[900.0, 0.0], [900.0, 0.0]]).double(), torch.tensor([label, label]))
    assert found.error == pytest.approx(error)


@pytest.mark.parametrize("texts", [1, 2, 25])
def test_the_same_space_twice_differs_in_nothing(texts):
    space = embeddings(5, images=9, texts=texts)
    same = compare_spaces(space, space, SCALE)
    assert (same.logit_kl, same.churn, same.top1_agreement) == (0.0, 0.0, 1.0)
    assert (same.image_cosine, same.text_cosine) == pytest.approx((1.0, 1.0))
    assert same.gap_float == same.gap_quantized
    assert same.scale_drift == pytest.approx(1.0, abs=1e-3)
    assert same.ece_float is same.ece_quantized is None


@pytest.mark.parametrize("factor", [0.4, 0.8, 1.25, 2.5])
def test_a_scaled_space_has_drifted_by_the_inverse_factor(before, factor):
    longer = before._replace(images=factor * before.images)
    found = compare_spaces(before, longer, SCALE)
    assert found.scale_drift == pytest.approx(1 / factor, rel=1e-3)
    assert found.logit_kl > 0
    assert (found.churn, found.top1_agreement) == (0.0, 1.0)
    assert found.image_cosine == pytest.approx(1.0)


def test_the_scale_is_fitted_on_evenly_spaced_images_within_the_limit(before, monkeypatch):
    monkeypatch.setattr(qkit.report.space, "REFIT_ROWS", 12)
    factors = torch.ones(23, 1)
    factors[::2] = 2.0  # 12 of 23
    found = compare_spaces(before, before._replace(images=factors * before.images), SCALE)
    assert found.scale_drift == pytest.approx(0.5, rel=1e-3)


def test_figures_of_a_whole_space(before, after):
    labels = torch.arange(23) % 11
    found = compare_spaces(before, after, SCALE, labels)
    first, second = (SCALE * (x.images @ x.texts.T).double() for x in (before, after))
    assert found.logit_kl == pytest.approx(divergence(first, second), rel=1e-5)
    same = [a.argmax() == b.argmax() for a, b in zip(first, second, strict=True)]
    assert found.top1_agreement == pytest.approx(sum(map(int, same)) / 23)
    assert found.churn == pytest.approx(churn(first, second))
    for space, gap in ((before, found.gap_float), (after, found.gap_quantized)):
        means = [[sum(c) / len(x) for c in zip(*x.tolist(), strict=True)] for x in space]
        by_hand = sum((a - b) ** 2 for a, b in zip(*means, strict=True)) ** 0.5
        assert gap == pytest.approx(by_hand, rel=1e-5)
    for i, cosine in enumerate((found.image_cosine, found.text_cosine)):
        assert cosine == pytest.approx(float((before[i] * after[i]).sum(-1).mean()), rel=1e-5)
    for logits, error in ((first, found.ece_float), (second, found.ece_quantized)):
        alone = Confidence()
        alone.add(logits, labels)
        assert error == pytest.approx(alone.error, rel=1e-5)


@pytest.mark.parametrize("chunk", [1, 5, 22, 23, 24])
def test_figures_do_not_depend_on_how_many_images_are_held_at_once(
    before, after, monkeypatch, chunk
):
    labels = torch.arange(23) % 11
    whole = astuple(compare_spaces(before, after, SCALE, labels))
    monkeypatch.setattr(qkit.report.space, "CHUNK", chunk)
    assert astuple(compare_spaces(before, after, SCALE, labels)) == pytest.approx(whole, rel=1e-9)


def test_more_disturbance_is_further_away(before):
    near, far = (compare_spaces(before, disturbed(before, by), SCALE) for by in (0.05, 0.5))
    assert 0 < near.logit_kl < far.logit_kl
    assert near.image_cosine > far.image_cosine
    assert near.churn < far.churn
