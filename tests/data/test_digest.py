# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
import re
import shutil
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkit.data.dataset import Dataset, Sample
from qkit.data.digest import dataset_digest
from qkit.data.source import Kind, Source
from qkit.errors import DataError


@pytest.fixture
def dataset(tmp_path, paint):
    root = tmp_path / "here"
    samples = (
        Sample(paint(root / "a.png", seed=1), ("a cat", "a tabby"), 0),
        Sample(paint(root / "b.png", seed=2), ("a dog",), 1),
    )
    return Dataset(Source(Kind.CLASSES, root), samples, ("cat", "dog"))


def edit_first(dataset, **changes):
    first, *others = dataset.samples
    return replace(dataset, samples=(replace(first, **changes), *others))


def test_digest_is_hex_and_repeats(dataset):
    assert re.fullmatch("[0-9a-f]{64}", dataset_digest(dataset))
    assert dataset_digest(dataset) == dataset_digest(dataset)


def test_digest_does_not_depend_on_the_folder(dataset, tmp_path):
    moved = tmp_path / "else" / "where"
    shutil.copytree(dataset.source.path, moved)
    samples = tuple(replace(s, image=moved / s.image.name) for s in dataset.samples)
    copy = Dataset(Source(Kind.CLASSES, moved), samples, dataset.classnames)
    assert dataset_digest(copy) == dataset_digest(dataset)


@pytest.mark.parametrize(
    "changes",
    [
        {"texts": ("a cat", "a tabbY")},
        {"texts": ("a tabby", "a cat")},
        {"texts": ("a cata tabby",)},
        {"texts": ()},
        {"label": 1},
        {"label": None},
    ],
)
def test_digest_sees_texts_and_label(dataset, changes):
    assert dataset_digest(edit_first(dataset, **changes)) != dataset_digest(dataset)


def test_digest_sees_order_and_class_names(dataset):
    others = [
        replace(dataset, samples=dataset.samples[::-1]),
        replace(dataset, samples=dataset.samples[:1]),
        replace(dataset, classnames=("cat", "wolf")),
        replace(dataset, classnames=("catdog",)),
        replace(dataset, classnames=("ca", "tdog")),
    ]
    assert len({dataset_digest(each) for each in [dataset, *others]}) == 6


def test_digest_sees_the_file_name(dataset):
    image = dataset.samples[0].image
    renamed = edit_first(dataset, image=shutil.copy(image, image.with_name("c.png")))
    assert dataset_digest(renamed) != dataset_digest(dataset)


def test_digest_sees_the_bytes(dataset):
    before = dataset_digest(dataset)
    with dataset.samples[1].image.open("ab") as file:
        file.write(b"\0")
    assert dataset_digest(dataset) != before


names = st.lists(st.text(st.characters(codec="utf-8"), max_size=3), max_size=3).map(tuple)


@given(one=names, other=names)
def test_different_class_names_have_different_digests(tmp_path_factory, one, other):
    source = Source(Kind.CLASSES, tmp_path_factory.getbasetemp())
    same = dataset_digest(Dataset(source, (), one)) == dataset_digest(Dataset(source, (), other))
    assert same == (one == other)


def test_missing_image(dataset):
    dataset.samples[0].image.unlink()
    with pytest.raises(DataError, match=r"cannot read '.*a.png': No such file"):
        dataset_digest(dataset)
