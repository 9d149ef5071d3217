# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
import hashlib

import pytest

from qkit.data.files import find_folders, find_images, hash_file, is_file, is_folder, read_text
from qkit.errors import DataError


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_images_are_told_by_suffix_in_any_case(tmp_path):
    images = ["a.jpg", "b.JPEG", "c.Png", "d.webp", "e.bmp", "f.gif", "g.tif", "h.TIFF"]
    touch(tmp_path, *images, "notes.txt", "jpg", "i.jpg.part")
    assert [path.name for path in find_images(tmp_path)] == images


def test_images_are_sorted_by_path_and_found_at_any_depth(tmp_path):
    touch(tmp_path, "b/x.png", "a/deep/er/z.png", "a.png", "c.png", "a/y.png")
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert found == ["a/deep/er/z.png", "a/y.png", "a.png", "b/x.png", "c.png"]


def test_hidden_files_and_folders_are_left_out(tmp_path):
    touch(tmp_path, "seen.png", "._seen.png", ".png", ".checkpoints/copy.png")
    assert find_images(tmp_path) == [tmp_path / "seen.png"]


def test_folder_below_a_hidden_one_is_searched(tmp_path):
    touch(tmp_path, ".cache/set/a.png")
    assert find_images(tmp_path / ".cache" / "set") == [tmp_path / ".cache" / "set" / "a.png"]


def test_folders_are_direct_visible_and_sorted(tmp_path):
    touch(tmp_path, "b/inner/x", "a/x", ".hidden/x", "file")
    assert find_folders(tmp_path) == [tmp_path / "a", tmp_path / "b"]


@pytest.mark.parametrize("find", [find_images, find_folders])
def test_folder_that_cannot_be_read(tmp_path, find):
    with pytest.raises(DataError, match=r"cannot read '.*gone': No such file.*Check its path"):
        find(tmp_path / "gone")


@pytest.mark.parametrize("check", [is_file, is_folder])
def test_path_that_the_system_refuses_counts_as_absent(tmp_path, check):
    assert not check(tmp_path / ("x" * 5000))


def test_text_loses_byte_order_mark_and_carriage_returns(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9\r\ntwo\rthree\n")
    assert read_text(file) == "café\ntwo\nthree\n"


def test_text_that_is_not_utf8_names_the_line(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes("plain\ncafé\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"a.txt' is not UTF-8 text \(line 2\). Save it as UTF-8"):
        read_text(file)


@pytest.mark.parametrize("read", [read_text, hash_file])
def test_file_that_cannot_be_read(tmp_path, read):
    with pytest.raises(DataError, match=r"cannot read '.*gone.txt': No such file.*Check its path"):
        read(tmp_path / "gone.txt")


def test_hash_is_the_sha256_of_the_bytes(tmp_path):
    file = tmp_path / "a.bin"
    file.write_bytes(b"abc")
    assert hash_file(file) == hashlib.sha256(b"abc").digest()
