# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkit.data.source import Kind, Source, join_sources, parse_source, split_sources
from qkit.errors import DataError


@pytest.mark.parametrize("kind", [Kind.CLASSES, Kind.IMAGES])
def test_folder_source_reads_back_as_it_was_written(tmp_path, kind):
    source = parse_source(f"{kind.value}:{tmp_path}")
    assert source == Source(kind, tmp_path)
    assert parse_source(str(source)) == source


def test_captions_source_reads_a_file(tmp_path):
    file = tmp_path / "test.csv"
    file.touch()
    assert parse_source(f"captions:{file}") == Source(Kind.CAPTIONS, file)


def test_only_the_first_colon_splits(tmp_path):
    folder = tmp_path / "a:b"
    folder.mkdir()
    assert parse_source(f"images:{folder}").path == folder


def test_missing_kind_names_the_value_and_the_nearest(tmp_path):
    with pytest.raises(DataError, match=r"'clases' names no kind. Did you mean 'classes'\?"):
        parse_source("clases")


def test_unknown_kind_names_the_nearest_and_all(tmp_path):
    with pytest.raises(
        DataError,
        match=r"unknown kind 'caption' .*Did you mean 'captions'\?.* classes, captions, images",
    ):
        parse_source(f"caption:{tmp_path}")


def test_empty_path_is_not_the_current_folder():
    with pytest.raises(DataError, match=r"'images:' names no path. Write images:path"):
        parse_source("images:")


def test_path_that_does_not_exist(tmp_path):
    with pytest.raises(DataError, match=r"nowhere' does not exist.*Check its spelling"):
        parse_source(f"images:{tmp_path / 'nowhere'}")


def test_path_that_the_system_refuses():
    with pytest.raises(DataError, match="xxx' does not exist or cannot be reached"):
        parse_source("images:" + "x" * 5000)


def test_captions_refuses_a_folder(tmp_path):
    with pytest.raises(DataError, match=f"'{tmp_path}' is a folder, but captions needs a CSV file"):
        parse_source(f"captions:{tmp_path}")


@pytest.mark.parametrize("kind", ["classes", "images"])
def test_folder_kinds_refuse_a_file(tmp_path, kind):
    file = tmp_path / "a.csv"
    file.touch()
    with pytest.raises(DataError, match=f"a.csv' is a file, but {kind} needs a folder"):
        parse_source(f"{kind}:{file}")


@given(
    st.lists(st.sampled_from(list(Kind)).map(lambda k: f"{k}:a + b:{k}"), unique=True, min_size=1)
)
def test_sources_joined_are_split_again(sources):
    assert split_sources(join_sources(sources)) == tuple(sources)


def test_a_source_is_named_once():
    with pytest.raises(DataError, match=r"'demo:calib' is named twice\. Name each once"):
        split_sources("demo:calib + images:a + demo:calib")
