# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkit.data.dataset import Dataset, Sample, draw, in_turns, join_datasets, open_dataset
from qkit.data.source import Kind, Source
from qkit.errors import DataError


def numbered(count):
    samples = tuple(Sample(Path(f"{index}.png"), label=index) for index in range(count))
    names = tuple(f"class {index}" for index in range(count))
    return Dataset(Source(Kind.CLASSES, Path("set")), samples, names)


def test_each_kind_opens_with_its_reader(tmp_path, paint):
    paint(tmp_path / "cat" / "a.png")
    table = tmp_path / "table.csv"
    table.write_text("image,caption\ncat/a.png,a cat\n")
    opened = {
        "classification": open_dataset(Source(Kind.CLASSES, tmp_path)),
        "retrieval": open_dataset(Source(Kind.CAPTIONS, table)),
        "images": open_dataset(Source(Kind.IMAGES, tmp_path)),
    }
    assert [dataset.task for dataset in opened.values()] == list(opened)
    assert [len(dataset) for dataset in opened.values()] == [1, 1, 1]
    assert opened["classification"].samples[0].label == 0
    assert opened["retrieval"].samples[0].texts == ("a cat",)
    assert opened["images"].samples == (Sample(tmp_path / "cat" / "a.png"),)


@given(size=st.integers(1, 40), count=st.integers(1, 60), seed=st.integers(0, 2**64))
def test_draw_is_a_subset_without_repetition(size, count, seed):
    dataset = numbered(size)
    drawn = draw(dataset, count, seed)
    assert len(drawn) == len(set(drawn.samples)) == min(count, size)
    assert set(drawn.samples) <= set(dataset.samples)
    assert (drawn.source, drawn.classnames) == (dataset.source, dataset.classnames)


@given(count=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_draw_repeats_for_its_seed_and_begins_a_larger_draw(count, seed):
    dataset = numbered(40)
    drawn = draw(dataset, count, seed)
    assert drawn == draw(dataset, count, seed)
    assert draw(dataset, 40, seed).samples[:count] == drawn.samples


@given(seeds=st.lists(st.integers(0, 2**32), min_size=2, max_size=2, unique=True))
def test_draw_differs_between_seeds(seeds):
    dataset = numbered(200)
    first, second = (draw(dataset, 100, seed) for seed in seeds)
    assert set(first.samples) != set(second.samples)


def test_draw_of_everything_is_shuffled():
    dataset = numbered(100)
    drawn = draw(dataset, 100, seed=0)
    assert drawn.samples != dataset.samples
    assert set(drawn.samples) == set(dataset.samples)


@pytest.mark.parametrize("count", [0, -3])
def test_draw_of_less_than_one(count):
    with pytest.raises(DataError, match=f"cannot draw {count} samples. Ask for 1 or more"):
        draw(numbered(3), count, seed=0)


def test_draw_with_negative_seed():
    with pytest.raises(DataError, match=r"cannot draw with seed -1. Use 0 or more"):
        draw(numbered(3), 1, seed=-1)


@given(st.lists(st.lists(st.integers(), max_size=8), min_size=1, max_size=4))
def test_turns_keep_every_item_and_each_lists_order(lists):
    tagged = [[(which, item) for item in items] for which, items in enumerate(lists)]
    mixed = in_turns(tagged)
    assert [[pair for pair in mixed if pair[0] == which] for which in range(len(lists))] == tagged
    shortest = min(map(len, lists))
    assert [which for which, _ in mixed[: shortest * len(lists)]] == [*range(len(lists))] * shortest


def test_joined_datasets_keep_the_class_of_every_sample():
    first, second = numbered(3), numbered(2)
    joined = join_datasets([first, second])
    assert len(joined) == 5
    assert [joined.classnames[s.label] for s in joined.samples] == [
        f"class {index}" for index in (0, 0, 1, 1, 2)
    ]
    assert [s.label for s in joined.samples] == [0, 3, 1, 4, 2]
