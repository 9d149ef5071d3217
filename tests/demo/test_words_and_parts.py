# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Which combinations are held out, and what the parts of the demo data hold."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkit.demo.scenes.parts import CLASS_NAMES, LABELS, SIZES, Part, item
from qkit.demo.scenes.scene import DAYLIGHT, DUSK
from qkit.demo.scenes.words import COLOURS, COMBINATIONS, HELD_OUT, SHAPES, TRAINED, class_name

parts = st.sampled_from(Part)
seeds = st.integers(0, 2**32)
indices = st.integers(0, 2**31)


def combinations_of(part, count):
    return {thing.combination for i in range(count) for thing in item(part, i).scene.things}


def test_every_colour_is_held_out_once_and_every_shape_once_or_twice():
    colours, shapes = zip(*HELD_OUT, strict=True)
    assert sorted(colours) == sorted(COLOURS)
    assert set(shapes) == set(SHAPES)
    assert max(shapes.count(shape) for shape in SHAPES) == 2


def test_trained_and_held_out_share_out_all_combinations():
    assert Counter(TRAINED) + Counter(HELD_OUT) == Counter(COMBINATIONS)
    assert set(COMBINATIONS) == {(colour, shape) for colour in COLOURS for shape in SHAPES}
    assert len(TRAINED) >= 80


def test_class_names_are_distinct_and_in_the_order_of_the_combinations():
    assert len(set(CLASS_NAMES)) == len(CLASS_NAMES) == len(COMBINATIONS)
    assert CLASS_NAMES[COMBINATIONS.index(("red", "circle"))] == "red circle"


@settings(deadline=None, max_examples=50)
@given(part=parts, index=indices, seed=seeds)
def test_an_item_is_the_same_whenever_it_is_asked_for(part, index, seed):
    first, second = item(part, index, seed), item(part, index, seed)
    assert first == second
    assert first.name == f"{part.value}/{index}"
    assert first.render().tobytes() == second.render().tobytes()


@settings(deadline=None, max_examples=50)
@given(
    one=st.tuples(parts, st.integers(0, 200), st.integers(0, 3)),
    other=st.tuples(parts, st.integers(0, 200), st.integers(0, 3)),
)
def test_another_part_index_or_seed_shows_another_scene(one, other):
    same = item(*one).scene == item(*other).scene
    assert same == (one == other)


@pytest.mark.parametrize("part", SIZES)
def test_no_two_items_of_a_part_show_the_same_scene(part):
    scenes = {item(part, index).scene for index in range(SIZES[part])}
    assert len(scenes) == SIZES[part]


@settings(deadline=None, max_examples=200)
@given(
    part=st.sampled_from([Part.SHAPES, Part.TRAIN, Part.CALIB, Part.LABELLED, Part.TUNE]),
    index=indices,
    seed=seeds,
)
def test_no_part_made_for_training_shows_a_held_out_combination(part, index, seed):
    shown = {thing.combination for thing in item(part, index, seed).scene.things}
    assert shown <= set(TRAINED)


def test_the_training_part_shows_every_trained_combination():
    assert combinations_of(Part.TRAIN, 2000) == set(TRAINED)


def test_the_calibration_part_as_a_whole_shows_no_held_out_combination():
    assert combinations_of(Part.CALIB, SIZES[Part.CALIB]) <= set(TRAINED)


def test_the_unseen_part_shows_the_held_out_combinations_and_no_other():
    assert combinations_of(Part.UNSEEN, SIZES[Part.UNSEEN]) == set(HELD_OUT)


def test_the_pairs_show_all_combinations():
    assert combinations_of(Part.PAIRS, SIZES[Part.PAIRS]) == set(COMBINATIONS)


@settings(deadline=None, max_examples=50)
@given(part=st.sampled_from(list(LABELS)), index=indices, seed=seeds)
def test_a_label_names_the_one_thing_of_its_scene(part, index, seed):
    shown = item(part, index, seed)
    (thing,) = shown.scene.things
    assert CLASS_NAMES[shown.label] == class_name(thing.combination)
    assert shown.caption is None


@pytest.mark.parametrize("part", [part for part in LABELS if part in SIZES])
def test_labelled_parts_hold_equally_many_of_each_class(part):
    counts = Counter(item(part, index).label for index in range(SIZES[part]))
    assert len(counts) == len(LABELS[part])
    assert len(set(counts.values())) == 1


@settings(deadline=None, max_examples=50)
@given(part=st.sampled_from([p for p in Part if p not in LABELS]), index=indices, seed=seeds)
def test_captioned_parts_have_a_caption_and_no_label(part, index, seed):
    shown = item(part, index, seed)
    assert shown.caption
    assert shown.label is None


@pytest.mark.parametrize("part", [part for part in Part if part not in LABELS])
def test_captioned_parts_show_one_thing_about_as_often_as_two(part):
    counts = Counter(len(item(part, index).scene.things) for index in range(400))
    assert counts.keys() == {1, 2}
    assert min(counts.values()) > 120


def test_all_parts_but_those_for_training_have_a_size():
    assert set(SIZES) == set(Part) - {Part.SHAPES, Part.TRAIN}
    assert SIZES[Part.PAIRS] == 1000


@pytest.mark.parametrize(
    ("part", "conditions"),
    [
        (Part.SHAPES, DAYLIGHT),
        (Part.TRAIN, DAYLIGHT),
        (Part.CALIB, DAYLIGHT),
        (Part.PAIRS, DAYLIGHT),
        (Part.LABELLED, DUSK),
        (Part.UNSEEN, DUSK),
    ],
)
def test_things_to_name_are_seen_under_harder_conditions_than_in_training(part, conditions):
    scenes = [item(part, index).scene for index in range(60)]
    for drawn, (low, high) in (
        ([scene.light.noise for scene in scenes], conditions.noise),
        ([scene.light.gain for scene in scenes], conditions.gain),
        ([scene.clutter for scene in scenes], conditions.clutter),
    ):
        assert low <= min(drawn) < max(drawn) <= high
        assert max(drawn) > (low + high) / 2
