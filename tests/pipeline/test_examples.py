# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Pictures of the mistakes that a report names, as far as the data are still there."""

import io

import numpy as np
import pytest
from PIL import Image

from qkit.data import open_dataset, parse_source
from qkit.graph.coverage import Coverage
from qkit.pipeline import examples
from qkit.pipeline.examples import EDGE, example_images
from qkit.report.evaluation import ClassReport, Metric, Mistake
from qkit.report.model import ModelReport


def report(**mistaken):
    """A report whose evaluations name the given samples, by source."""
    metrics = tuple(evaluation(source, indices) for source, indices in mistaken.items())
    return ModelReport("", "", metrics, {}, Coverage(1.0, 1.0, 1, 1, ()), {}, {}, {})


def evaluation(source, indices):
    mistakes = tuple(Mistake("other", 1, index) for index in indices)
    worst = (ClassReport("a class", 2, 1.0, 0.0, mistakes),) if mistakes else ()
    return Metric(source, "classification", {"top1": 0.0}, None, None, 2, worst_classes=worst)


@pytest.fixture
def wide(tmp_path):
    """Two classes of large pictures: a wide red one, a high and a small blue one."""
    for name, colour, size in (
        ("a/0.png", (255, 0, 0), (400, 200)),
        ("b/0.jpg", (0, 0, 255), (100, 300)),
        ("b/1.png", (0, 0, 255), (30, 20)),
    ):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).save(path)
    return f"classes:{tmp_path / 'data'}"


def opened(png):
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return image.convert("RGB")


def test_the_longer_side_is_96_and_small_pictures_stay_small(wide):
    found = example_images(report(**{wide: [0, 1, 2]}))
    sizes = {index: opened(png).size for (_, index), png in found.items()}
    assert sizes == {0: (EDGE, 48), 1: (32, EDGE), 2: (30, 20)}
    assert EDGE == 96
    red, blue = (np.array(opened(found[wide, index])).mean((0, 1)) for index in (0, 1))
    assert red.tolist() == [255, 0, 0]
    assert blue[2] > 250


def test_pictures_of_the_demo_data_are_drawn_again():
    found = example_images(report(**{"demo:unseen": [7, 300]}))
    assert set(found) == {("demo:unseen", 7), ("demo:unseen", 300)}
    drawn = open_dataset(parse_source("demo:unseen")).samples[7].image.render()
    shown = opened(found["demo:unseen", 7])
    assert max(shown.size) == min(EDGE, max(drawn.size))
    small = drawn.resize(shown.size, Image.Resampling.LANCZOS)
    difference = np.abs(np.array(shown, float) - np.array(small, float))
    assert difference.mean() < 2
    assert found["demo:unseen", 7] != found["demo:unseen", 300]


def test_each_is_known_by_its_data_and_index(wide):
    found = example_images(report(**{wide: [1, 1], "demo:labelled": [1]}))
    assert set(found) == {(wide, 1), ("demo:labelled", 1)}
    assert found[wide, 1] != found["demo:labelled", 1]


def test_data_that_have_moved_give_no_pictures_and_no_error(wide, tmp_path):
    (tmp_path / "data").rename(tmp_path / "moved")
    found = example_images(report(**{wide: [0], "demo:unseen": [0]}))
    assert set(found) == {("demo:unseen", 0)}


def test_data_with_fewer_samples_than_before_give_what_is_left(wide, tmp_path):
    (tmp_path / "data" / "b" / "1.png").unlink()
    assert set(example_images(report(**{wide: [0, 2]}))) == {(wide, 0)}


def test_a_picture_that_was_damaged_since_is_no_error(wide, tmp_path):
    (tmp_path / "data" / "a" / "0.png").write_bytes(b"gone")
    assert (wide, 0) not in example_images(report(**{wide: [0, 1]}))


def test_a_report_that_names_none_opens_no_data(monkeypatch):
    monkeypatch.setattr(examples, "open_dataset", lambda source: pytest.fail("opened"))
    assert example_images(report(**{"demo:unseen": []})) == {}
    assert example_images(report()) == {}
