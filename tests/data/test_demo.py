# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The demo data behave as any other dataset, though their pictures are drawn on use."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qkit.data.dataset import Dataset, Sample, draw, open_dataset
from qkit.data.decode import decode
from qkit.data.digest import dataset_digest
from qkit.data.loading import image_batches
from qkit.data.source import Kind, parse_source
from qkit.demo.scenes.parts import CLASS_NAMES, Part, item
from qkit.errors import DataError

SIZES = {"calib": 512, "labelled": 1680, "unseen": 360, "pairs": 1000, "tune": 1344}
LABELLED = ("labelled", "unseen", "tune")


def open_part(part):
    return open_dataset(parse_source(f"demo:{part}"))


def head(part, count=4):
    whole = open_part(part)
    return replace(whole, samples=whole.samples[:count])


def to_tensor(image):
    return torch.from_numpy(np.array(image.resize((8, 8)))).permute(2, 0, 1) / 255


@pytest.mark.parametrize("part", SIZES)
def test_each_part_opens_with_its_size_task_and_classes(part):
    dataset = open_part(part)
    assert str(dataset.source) == f"demo:{part}"
    assert len(dataset) == SIZES[part]
    assert dataset.task == ("classification" if part in LABELLED else "retrieval")
    assert dataset.classnames == (CLASS_NAMES if part in LABELLED else ())


@pytest.mark.parametrize("part", SIZES)
def test_samples_hold_what_is_known_of_their_items(part):
    for index, sample in enumerate(open_part(part).samples[:50]):
        shown = item(Part(part), index)
        assert sample.image == shown
        assert sample.label == shown.label
        assert sample.texts == (() if part in LABELLED else (shown.caption,))


@pytest.mark.parametrize("part", ["train", "nonsense", "Pairs ", "x/calib"])
def test_other_parts_are_refused_in_one_line_with_the_choices(part):
    with pytest.raises(DataError, match="the demo data have no part") as caught:
        open_part(part)
    message = str(caught.value)
    assert repr(part) in message
    assert "\n" not in message
    assert "demo:PART with one of calib, labelled, unseen, pairs, tune." in message


@pytest.mark.parametrize(("part", "meant"), [("pair", "pairs"), ("labeled", "labelled")])
def test_a_near_miss_is_told_what_was_probably_meant(part, meant):
    with pytest.raises(DataError, match=f"no part '{part}'. Did you mean '{meant}'[?] Use demo:"):
        open_part(part)


def test_a_missing_part_is_refused():
    with pytest.raises(DataError, match=r"'demo:' names no path. Write demo:path"):
        parse_source("demo:")


@settings(deadline=None, max_examples=15)
@given(part=st.sampled_from(list(SIZES)), batch_size=st.integers(1, 7), workers=st.integers(1, 3))
def test_loaded_batches_are_the_pictures_drawn_by_hand(part, batch_size, workers):
    samples = head(part, 6).samples
    batches = list(image_batches(samples, to_tensor, batch_size, workers=workers))
    expected = torch.stack([to_tensor(item(Part(part), index).render()) for index in range(6)])
    assert torch.equal(torch.cat([batch.pixels for batch in batches]), expected)
    assert tuple(sample for batch in batches for sample in batch.samples) == samples


def test_drawn_samples_and_files_can_be_mixed(tmp_path, paint):
    files = [Sample(paint(tmp_path / f"{seed}.png", seed=seed)) for seed in range(2)]
    drawn = head("calib", 2).samples
    mixed = (files[0], drawn[0], drawn[1], files[1])
    (batch,) = image_batches(mixed, to_tensor, 4)
    pictures = [
        decode(files[0].image),
        drawn[0].image.render(),
        drawn[1].image.render(),
        decode(files[1].image),
    ]
    assert batch.samples == mixed
    assert torch.equal(batch.pixels, torch.stack([to_tensor(picture) for picture in pictures]))
    source = parse_source(f"images:{tmp_path}")
    digests = {dataset_digest(Dataset(source, part)) for part in (mixed, mixed[1:], mixed[:3])}
    assert len(digests) == 3


def test_skipping_bad_files_keeps_drawn_samples(tmp_path, truncate):
    bad = Sample(truncate(tmp_path / "half.jpg"))
    drawn, told = head("pairs", 1).samples, []
    options = {"skip_bad": True, "on_skip": lambda path, reason: told.append(path)}
    (batch,) = image_batches((bad, *drawn), to_tensor, 2, **options)
    assert batch.samples == drawn
    assert told == [bad.image]


@pytest.mark.parametrize("part", SIZES)
def test_the_digest_is_stable_until_something_changes(part):
    dataset = head(part)
    first, second, *others = dataset.samples
    changed = [
        replace(dataset, samples=dataset.samples[:-1]),
        replace(dataset, samples=(second, first, *others)),
        replace(dataset, samples=(replace(first, texts=("else",)), second, *others)),
        replace(dataset, samples=(replace(first, label=99), second, *others)),
        replace(
            dataset, samples=(replace(first, image=item(Part(part), 0, seed=1)), second, *others)
        ),
    ]
    assert dataset_digest(dataset) == dataset_digest(head(part))
    assert len({dataset_digest(each) for each in [dataset, *changed]}) == len(changed) + 1


def test_the_digest_tells_the_parts_apart():
    assert len({dataset_digest(head(part)) for part in SIZES}) == len(SIZES)


@settings(deadline=None, max_examples=10)
@given(part=st.sampled_from(list(SIZES)), count=st.integers(1, 1100), seed=st.integers(0, 2**32))
def test_a_random_draw_is_a_subset_that_repeats(part, count, seed):
    dataset = open_part(part)
    drawn = draw(dataset, count, seed)
    assert drawn == draw(dataset, count, seed)
    assert len(drawn) == len(set(drawn.samples)) == min(count, SIZES[part])
    assert set(drawn.samples) <= set(dataset.samples)
    assert (drawn.task, drawn.classnames) == (dataset.task, dataset.classnames)


def test_datasets_of_files_keep_their_tasks(tmp_path, paint):
    paint(tmp_path / "set" / "cat" / "a.png")
    paint(tmp_path / "set" / "dog" / "b.png")
    (tmp_path / "table.csv").write_text("image,caption\nset/cat/a.png,a cat\n")
    paths = {Kind.CLASSES: "set", Kind.CAPTIONS: "table.csv", Kind.IMAGES: "set"}
    opened = [open_dataset(parse_source(f"{kind}:{tmp_path / at}")) for kind, at in paths.items()]
    tasks = ["classification", "retrieval", "images"]
    assert [dataset.task for dataset in opened] == tasks
    assert [draw(dataset, 1, seed=0).task for dataset in opened] == tasks
