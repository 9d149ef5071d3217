# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Shots: so many images of each class."""

import shutil

import pytest

from qkit.data import open_dataset, parse_source
from qkit.errors import DataError
from qkit.pipeline.finetune.draw import draw_training


@pytest.mark.parametrize("shots", [1, 2, 4])
def test_shots_are_drawn_by_class_and_seed(classes, shots):
    dataset = open_dataset(parse_source(classes))
    drawn = draw_training(dataset, shots, 0)
    labels = [sample.label for sample in drawn.samples]
    assert labels == [label for label in range(3) for _ in range(shots)]
    assert len(set(drawn.samples)) == len(drawn)
    assert drawn == draw_training(dataset, shots, 0)
    if shots < 4:
        seeds = {draw_training(dataset, shots, seed).samples for seed in range(8)}
        assert len(seeds) > 1
    more = draw_training(dataset, 4, 0).samples
    for label in range(3):
        mine = [s for s in drawn.samples if s.label == label]
        assert mine == [s for s in more if s.label == label][:shots]


def test_classes_with_too_few_images_are_named(shapes, tmp_path):
    shutil.copytree(shapes / "classes", tmp_path / "few")
    for name in ("red/0.png", "red/1.png", "blue/2.png"):
        (tmp_path / "few" / name).unlink()
    dataset = open_dataset(parse_source(f"classes:{tmp_path / 'few'}"))
    fact = r"2 classes have fewer images than --shots 4: blue \(3\), red \(2\)\. Use --shots 2, or"
    with pytest.raises(DataError, match=fact):
        draw_training(dataset, 4, 0)
    with pytest.raises(DataError, match=r"1 class has fewer images than --shots 3: red \(2\)"):
        draw_training(dataset, 3, 0)
    with pytest.raises(DataError, match=r"--shots 0 is not possible"):
        draw_training(dataset, 0, 0)
