# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
import pytest

from qkit.data.classes import read_classes
from qkit.data.source import Kind, Source
from qkit.errors import DataError


@pytest.fixture
def zoo(tmp_path, paint):
    """Three images of two classes, one class with an inner folder as Tiny-ImageNet has it."""
    root = tmp_path / "zoo"
    paint(root / "n02_cat" / "b.png", seed=1)
    paint(root / "n02_cat" / "a.png", seed=2)
    paint(root / "n01" / "images" / "c.png", seed=3)
    return root


def read(folder):
    return read_classes(Source(Kind.CLASSES, folder))


def test_labels_follow_the_folder_names(zoo):
    samples = [(sample.image.name, sample.label) for sample in read(zoo).samples]
    assert samples == [("c.png", 0), ("a.png", 1), ("b.png", 1)]


def test_without_a_file_the_folders_give_the_names(zoo):
    assert read(zoo).classnames == ("n01", "n02 cat")


@pytest.mark.parametrize("place", [".", ".."])
def test_names_file_in_the_folder_or_one_up(zoo, place):
    text = "n02_cat\ttabby cat\n\n  \nn99\tunused\r\nn01\tAfrican bush élephant\n"
    (zoo / place / "classnames.txt").write_bytes(text.encode())
    assert read(zoo).classnames == ("African bush élephant", "tabby cat")


def test_names_file_in_the_folder_comes_first(zoo):
    (zoo / "classnames.txt").write_text("n01\tinner\nn02_cat\tcat\n")
    (zoo.parent / "classnames.txt").write_text("n01\touter\nn02_cat\tcat\n")
    assert read(zoo).classnames == ("inner", "cat")


def test_one_up_from_the_current_folder(zoo, monkeypatch):
    (zoo.parent / "classnames.txt").write_text("n01\tdog\nn02_cat\tcat\n")
    monkeypatch.chdir(zoo)
    assert read(zoo.relative_to(zoo)).classnames == ("dog", "cat")


def test_folder_that_the_names_file_does_not_list(zoo):
    (zoo / "classnames.txt").write_text("n01\tdog\n")
    with pytest.raises(DataError, match=r"'n02_cat' is not listed in '.*classnames.txt'. Add"):
        read(zoo)


@pytest.mark.parametrize("line", ["n02_cat", "n02_cat cat", "n02_cat\t", "\tcat", "n02\ta\tb"])
def test_malformed_line_of_the_names_file(zoo, line):
    (zoo / "classnames.txt").write_text(f"n01\tdog\n\n{line}\n")
    with pytest.raises(DataError, match=r"line 3 of '.*classnames.txt' is .*folder TAB name"):
        read(zoo)


def test_folder_listed_twice(zoo):
    (zoo / "classnames.txt").write_text("n01\tdog\nn02_cat\tcat\nn01\twolf\n")
    with pytest.raises(DataError, match=r"line 3 of '.*classnames.txt' lists 'n01' again"):
        read(zoo)


def test_folder_without_classes(tmp_path, paint):
    paint(tmp_path / "loose.png")
    with pytest.raises(DataError, match=f"no class folders in '{tmp_path}'.*images:{tmp_path}"):
        read(tmp_path)


def test_class_without_images(zoo):
    (zoo / "n03").mkdir()
    (zoo / "n03" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"class folder '.*n03' has no images. Add some or remove"):
        read(zoo)
