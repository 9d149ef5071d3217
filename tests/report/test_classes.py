# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The classes that quantization hurts most, counted by hand."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qkit.report.classes import MISTAKES, WORST, worst_classes
from qkit.report.evaluation import ClassReport, Mistake

NAMES = ("ant", "bee", "cat", "dog")


@pytest.fixture
def suffering():
    """Four classes of which the bees suffer most and the dogs gain."""
    labels = [0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 3, 3]
    before = [0, 0, 1, 1, 1, 1, 1, 0, 2, 2, 0, 3]
    after_ = [0, 2, 0, 1, 3, 3, 0, 0, 2, 0, 3, 3]
    tables = map(torch.tensor, (before, after_, labels))
    return worst_classes(*tables, NAMES, [100 + i for i in range(12)])


def test_the_class_that_lost_most_comes_first_and_gainers_are_left_out(suffering):
    assert [each.name for each in suffering] == ["bee", "cat"]


def test_a_class_s_shares_are_of_its_own_images(suffering):
    bee, cat = suffering
    assert (bee.samples, bee.float, bee.quantized) == (5, 0.8, 0.2)
    assert (cat.samples, cat.float, cat.quantized) == (2, 1.0, 0.5)


def test_mistakes_are_new_ones_the_most_frequent_first_each_with_an_example(suffering):
    bee, cat = suffering
    assert bee.mistakes == (Mistake("dog", 2, 104), Mistake("ant", 1, 106))
    assert cat.mistakes == (Mistake("ant", 1, 109),)


def test_nothing_is_listed_where_nothing_was_lost():
    labels = torch.tensor([0, 1, 2, 3])
    assert worst_classes(labels, labels, labels, NAMES, range(4)) == ()


def test_equal_losses_are_ordered_by_name():
    labels = torch.tensor([3, 1, 2])
    lost = worst_classes(labels, torch.zeros(3, dtype=torch.long), labels, NAMES, range(3))
    assert [each.name for each in lost] == ["bee", "cat", "dog"]


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.tuples(*[st.integers(0, 12)] * 3), min_size=1, max_size=80),
)
def test_every_listed_class_is_what_counting_gives(rows):
    names = [f"class {i:02}" for i in range(13)]
    found = worst_classes(*map(torch.tensor, zip(*rows, strict=True)), names, range(len(rows)))
    losses = []
    for report in found:
        mine = [row for row in rows if names[row[2]] == report.name]
        right, still = (sum(row[i] == row[2] for row in mine) for i in range(2))
        lost = Counter(names[after] for before, after, label in mine if before == label != after)
        assert report == ClassReport(
            report.name, len(mine), right / len(mine), still / len(mine), report.mistakes
        )
        assert [mistake.count for mistake in report.mistakes] == sorted(
            lost.values(), reverse=True
        )[:MISTAKES]
        for mistake in report.mistakes:
            assert lost[mistake.taken_for] == mistake.count
            before, after, label = rows[mistake.example]
            assert (names[label], names[after]) == (report.name, mistake.taken_for)
            assert before == label
        losses.append(right - still)
    every = Counter(row[2] for row in rows if row[0] == row[2])
    every.subtract(row[2] for row in rows if row[1] == row[2])
    assert losses == sorted((n for n in every.values() if n > 0), reverse=True)[:WORST]
