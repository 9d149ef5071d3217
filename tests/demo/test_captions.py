# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Captions use known words, say everything and say it right."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkit.demo.scenes.captions import all_words, describe, describe_thing, place
from qkit.demo.scenes.scene import LARGE, SIDE, SMALL, Light, Scene, Thing, draw_scene
from qkit.demo.scenes.words import COLOURS, COMBINATIONS, SHAPES, TEXTURES

DAY = Light(gain=1, cast=(1, 1, 1), slope=(0, 0), noise=0, grain=0)
MIDDLE = Thing(("red", "circle"), "plain", (32.0, 32.0), 14.0, 0.0)
RELATIONS = {  # which coordinate, and whether the thing named first has the smaller one
    "a (.+) to the left of a (.+) on a white background": (0, True),
    "a (.+) to the right of a (.+) on white": (0, False),
    "on the left a (.+), on the right a (.+), white background": (0, True),
    "a (.+) above a (.+) on a white background": (1, True),
    "a (.+) below a (.+) on white": (1, False),
    "at the top a (.+), at the bottom a (.+), white background": (1, True),
}
seeds = st.integers(0, 2**32)


def drawn_scenes(pair):
    draw = st.builds(lambda s: draw_scene(np.random.default_rng(s), COMBINATIONS, pair=pair), seeds)
    return draw if not pair else draw.filter(lambda scene: len(set(names_of(scene))) == 2)


def names_of(scene):
    return [describe_thing(thing) for thing in scene.things]


def captions_of(scene, count=60):
    return {describe(scene, np.random.default_rng(seed)) for seed in range(count)}


def relation_of(caption):
    """First and second name of a caption, and how the phrasing relates them."""
    found = [(re.fullmatch(form, caption), related) for form, related in RELATIONS.items()]
    ((match, related),) = [(match, related) for match, related in found if match]
    return match[1], match[2], *related


def assert_relation_holds(scene, caption):
    first, second, axis, ascending = relation_of(caption)
    where = {describe_thing(thing): thing.centre[axis] for thing in scene.things}
    assert where.keys() == {first, second}
    assert (where[first] < where[second]) == ascending


@settings(deadline=None, max_examples=100)
@given(scene=st.one_of(drawn_scenes(False), drawn_scenes(True)), seed=seeds)
def test_every_word_of_a_caption_is_known(scene, seed):
    caption = describe(scene, np.random.default_rng(seed))
    assert {word.strip(",") for word in caption.split()} <= set(all_words())


def test_all_words_are_single_lower_case_words_or_marks():
    assert {*COLOURS, *SHAPES, *TEXTURES, ","} <= set(all_words())
    assert all(re.fullmatch("[a-z]+|,", word) for word in all_words())
    assert all_words() == sorted(set(all_words()))


@settings(deadline=None, max_examples=100)
@given(scene=st.one_of(drawn_scenes(False), drawn_scenes(True)), seed=seeds)
def test_a_caption_names_every_thing_and_the_background(scene, seed):
    caption = describe(scene, np.random.default_rng(seed))
    for thing in scene.things:
        assert " ".join(thing.combination) in caption
    said = [word for word in re.findall("[a-z]+", caption) if word in COLOURS]
    assert sorted(said) == sorted([t.combination[0] for t in scene.things] + [scene.background])


@pytest.mark.parametrize(
    ("centre", "beside"), [((50.0, 30.0), True), ((30.0, 50.0), False), ((50.0, 11.0), True)]
)
def test_every_phrasing_of_a_relation_agrees_with_the_geometry(centre, beside):
    other = replace(MIDDLE, combination=("blue", "star"), centre=centre)
    scene = Scene((replace(MIDDLE, centre=(12.0, 12.0)), other), "white", 0.0, DAY)
    captions = captions_of(scene)
    assert len(captions) == 3
    assert {relation_of(caption)[2] for caption in captions} == {0 if beside else 1}
    for caption in captions:
        assert_relation_holds(scene, caption)


@settings(deadline=None, max_examples=500)
@given(scene=drawn_scenes(True), seed=seeds)
def test_the_relation_said_of_a_drawn_scene_holds(scene, seed):
    scene = replace(scene, background="white")
    assert_relation_holds(scene, describe(scene, np.random.default_rng(seed)))


def test_one_thing_is_described_in_several_phrasings_that_place_it_right():
    scene = Scene((replace(MIDDLE, centre=(55.0, 60.0)),), "green", 0.0, DAY)
    assert captions_of(scene) == {
        "a red circle on a green background",
        "a red circle in the bottom right of a green picture",
        "there is a red circle in the bottom right, the background is green",
        "red circle, bottom right, green background",
        "the bottom right shows a red circle on green",
    }


@settings(deadline=None, max_examples=20)
@given(scene=drawn_scenes(True), seed=seeds)
def test_the_same_lot_gives_the_same_caption(scene, seed):
    first, second = (describe(scene, np.random.default_rng(seed)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("centre", "expected"),
    [
        ((0.0, 0.0), "top left"),
        ((32.0, 5.0), "top"),
        ((63.9, 0.1), "top right"),
        ((10.0, 32.0), "left"),
        ((32.0, 32.0), "centre"),
        ((60.0, 32.0), "right"),
        ((1.0, 63.0), "bottom left"),
        ((32.0, 63.0), "bottom"),
        ((64.0, 64.0), "bottom right"),
        ((21.3, 21.3), "top left"),
        ((21.4, 21.3), "top"),
        ((21.3, 21.4), "left"),
        ((42.6, 42.6), "centre"),
        ((42.7, 42.6), "right"),
        ((42.6, 42.7), "bottom"),
        ((SIDE, 0.0), "top right"),
    ],
)
def test_places_lie_on_a_grid_of_three_by_three(centre, expected):
    assert place(replace(MIDDLE, centre=centre)) == expected


@pytest.mark.parametrize(
    ("radius", "words"),
    [
        (SMALL - 0.1, "small red circle"),
        (SMALL, "red circle"),
        ((SMALL + LARGE) / 2, "red circle"),
        (LARGE, "red circle"),
        (LARGE + 0.1, "large red circle"),
    ],
)
def test_size_is_said_only_where_it_is_clear(radius, words):
    assert describe_thing(replace(MIDDLE, radius=radius)) == words


@pytest.mark.parametrize("texture", TEXTURES)
def test_a_texture_is_said_unless_it_is_plain(texture):
    words = describe_thing(replace(MIDDLE, texture=texture, radius=20.0))
    assert words == ("large red circle" if texture == "plain" else f"large {texture} red circle")
