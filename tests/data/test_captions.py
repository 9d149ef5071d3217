# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
import pytest

from qkit.data.captions import read_captions
from qkit.data.source import Kind, Source
from qkit.errors import DataError


@pytest.fixture
def read(tmp_path, paint):
    """Read a table of the given text that stands beside images/a.png and images/b.png."""
    paint(tmp_path / "images" / "a.png", seed=1)
    paint(tmp_path / "images" / "b.png", seed=2)

    def read_table(text):
        table = tmp_path / "table.csv"
        table.write_bytes(text if isinstance(text, bytes) else text.encode())
        samples = read_captions(Source(Kind.CAPTIONS, table)).samples
        return [(sample.image.relative_to(tmp_path).as_posix(), sample.texts) for sample in samples]

    return read_table


def test_rows_of_one_image_become_one_sample(read):
    table = "image,caption\nimages/b.png,one\nimages/a.png,two\n./images/b.png,three\n"
    assert read(table) == [("images/b.png", ("one", "three")), ("images/a.png", ("two",))]


def test_other_columns_and_any_order(read):
    table = "split, caption ,id, image\ntest,a cat,7,images/a.png\n"
    assert read(table) == [("images/a.png", ("a cat",))]


def test_quotes_commas_and_line_breaks(read):
    table = b'\xef\xbb\xbfimage,caption\r\nimages/a.png,"a ""big"", \r\nbrown dog"\r\n\r\n'
    assert read(table) == [("images/a.png", ('a "big", \nbrown dog',))]


def test_missing_column_names_those_found(read):
    with pytest.raises(DataError, match=r"no column 'caption'; it has image, title. Name"):
        read("image,title\nimages/a.png,a cat\n")


@pytest.mark.parametrize("column", ["image", "caption"])
@pytest.mark.parametrize("blank", ["", "  "])
def test_empty_field_names_the_line(read, column, blank):
    row = {"image": "images/a.png", "caption": "a cat", column: blank}
    with pytest.raises(DataError, match=rf"line 3 of '.*table.csv' has an empty {column}. Fill"):
        read(f"image,caption\nimages/b.png,fine\n{row['image']},{row['caption']}\n")


@pytest.mark.parametrize("name", ["images/gone.png", "images", "x" * 5000])
def test_image_that_does_not_exist_names_file_and_line(read, name):
    with pytest.raises(DataError, match=rf"line 2 of '.*table.csv' names '.*{name}', which does"):
        read(f"image,caption\n{name},a cat\n")


def test_unquoted_comma_is_not_cut_off(read):
    with pytest.raises(DataError, match=r"line 2 of .* has 3 fields where the header has 2. Put"):
        read("image,caption\nimages/a.png,a cat, sleeping\n")


def test_open_quote_does_not_swallow_the_rest(read):
    with pytest.raises(DataError, match=r"line 3 of '.*table.csv' is malformed: .*Close every"):
        read('image,caption\nimages/a.png,"a cat\nimages/b.png,a dog\n')


@pytest.mark.parametrize("text", ["", "\n", "\nimage,caption\n"])
def test_empty_file(read, text):
    with pytest.raises(DataError, match=r"table.csv' is empty or .*the columns image, caption"):
        read(text)


def test_header_without_rows(read):
    with pytest.raises(DataError, match=r"table.csv' lists no captions. Add a row"):
        read("image,caption\n\n")


def test_bad_encoding(read):
    with pytest.raises(DataError, match=r"table.csv' is not UTF-8 text \(line 2\)"):
        read("image,caption\nimages/a.png,café\n".encode("latin-1"))
