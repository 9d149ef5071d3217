# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Pictures of scenes show the right colours in the right places."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkit.demo.scenes.render import PALE, render
from qkit.demo.scenes.scene import SIDE, Light, Scene, Thing, draw_scene
from qkit.demo.scenes.shapes import outline
from qkit.demo.scenes.words import COLOURS, COMBINATIONS, SHAPES, TEXTURES

DAY = Light(gain=1, cast=(1, 1, 1), slope=(0, 0), noise=0, grain=0)
WHITE = 240
ROUGH = [texture for texture in TEXTURES if texture != "plain"]
angles = st.floats(-0.35, 0.35)
middles = st.tuples(st.floats(26, 38), st.floats(26, 38))


def thing_of(shape, colour="white", texture="plain", centre=(32.0, 32.0), radius=20.0, angle=0.0):
    return Thing((colour, shape), texture, centre, radius, angle)


def shoot(*things, background="black", clutter=0.0, **light):
    picture = render(Scene(things, background, clutter, replace(DAY, **light)))
    return np.asarray(picture).astype(float)


def cover(shape, **options):
    """How much of each pixel a shape covers, read off a white one on black."""
    empty = shoot()
    return ((shoot(thing_of(shape, **options)) - empty) / (WHITE - empty)).mean(axis=2)


def area_and_centroid(points):
    """By the shoelace formula."""
    x, y = points.T
    following_x, following_y = np.roll(x, -1), np.roll(y, -1)
    cross = x * following_y - following_x * y
    area = cross.sum() / 2
    centroid = [((a + b) * cross).sum() / 6 / area for a, b in ((x, following_x), (y, following_y))]
    return abs(area), np.array(centroid)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), pair=st.booleans())
def test_the_same_scene_gives_the_same_picture(seed, pair):
    scene = draw_scene(np.random.default_rng(seed), COMBINATIONS, pair=pair)
    picture = render(scene)
    assert (picture.mode, picture.size) == ("RGB", (64, 64))
    assert picture.tobytes() == render(scene).tobytes()


@pytest.mark.parametrize("shape", ["circle", "square"])
@pytest.mark.parametrize("colour", COLOURS)
def test_a_plain_thing_has_its_colour_and_the_corner_a_pale_background(shape, colour):
    background = "brown" if colour == "white" else "white"
    pixels = shoot(thing_of(shape, colour), background=background)
    pale = [value + PALE * (128 - value) for value in COLOURS[background]]
    assert tuple(pixels[32, 32]) == COLOURS[colour]
    for corner in (pixels[0, 0], pixels[0, -1], pixels[-1, 0], pixels[-1, -1]):
        assert corner == pytest.approx(pale, abs=0.51)


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_lie_in_the_unit_circle(shape):
    form = outline(shape)
    room = 0.003 if shape == "cross" else 1e-6  # its corners reach 1.0024
    assert np.hypot(*form.outer.T).max() <= 1 + room
    assert form.hole is None or np.hypot(*form.hole.T).max() <= 1


def test_there_is_no_outline_of_an_unknown_shape():
    with pytest.raises(KeyError):
        outline("blob")


@pytest.mark.parametrize("shape", SHAPES)
@settings(deadline=None, max_examples=10)
@given(centre=middles, radius=st.floats(15, 22), angle=angles)
def test_a_thing_covers_the_area_of_its_outline(shape, centre, radius, angle):
    form = outline(shape)
    area = area_and_centroid(form.outer)[0]
    area -= area_and_centroid(form.hole)[0] if form.hole is not None else 0
    covered = cover(shape, centre=centre, radius=radius, angle=angle)
    assert covered.sum() == pytest.approx(area * radius**2, rel=0.05)
    assert 0 <= covered.min() <= covered.max() == 1


@pytest.mark.parametrize("shape", SHAPES)
@settings(deadline=None, max_examples=10)
@given(centre=middles, radius=st.floats(15, 22))
def test_a_thing_lies_where_its_scene_says(shape, centre, radius):
    covered = cover(shape, centre=centre, radius=radius)
    found = [(covered.sum(axis=axis) * (np.arange(SIDE) + 0.5)).sum() for axis in (0, 1)]
    expected = centre + radius * area_and_centroid(outline(shape).outer)[1]
    assert np.array(found) / covered.sum() == pytest.approx(expected, abs=0.3)


@pytest.mark.parametrize(("one", "other"), list(combinations(SHAPES, 2)))
def test_any_two_shapes_can_be_told_apart(one, other):
    first, second = cover(one), cover(other)
    assert np.abs(first - second).sum() > 0.05 * max(first.sum(), second.sum())


@settings(deadline=None, max_examples=20)
@given(angle=st.floats(0.3, 0.35), centre=middles, turn=st.sampled_from([1, -1]))
def test_a_positive_angle_turns_clockwise(angle, centre, turn):
    covered = cover("arrow", angle=turn * angle, centre=centre)
    reach = 0.85 * 20  # short of the tip, which points up when it is not turned
    x, y = centre[0] + turn * reach * math.sin(angle), centre[1] - reach * math.cos(angle)
    assert covered[int(y), int(x)] > 0.9
    assert covered[int(y), int(2 * centre[0] - x)] == 0


@pytest.mark.parametrize("texture", ROUGH)
@pytest.mark.parametrize(("colour", "sign"), [("white", -1), ("red", -1), ("black", 1)])
def test_a_texture_darkens_or_lightens_within_the_thing_only(texture, colour, sign):
    background = "green"
    empty = shoot(background=background)
    plain = shoot(thing_of("star", colour), background=background)
    rough = shoot(thing_of("star", colour, texture), background=background)
    inside = (plain != empty).any(axis=2)
    changed = (rough != plain).any(axis=2)
    assert not (changed & ~inside).any()
    assert 0.08 * inside.sum() < changed.sum() < 0.7 * inside.sum()
    assert (sign * (rough - plain) >= 0).all()


def test_the_second_thing_lies_over_the_first():
    pixels = shoot(thing_of("square", "red"), thing_of("circle", "blue", radius=9.0))
    assert tuple(pixels[32, 32]) == COLOURS["blue"]
    assert tuple(pixels[32, 44]) == COLOURS["red"]


@settings(deadline=None, max_examples=20)
@given(gain=st.floats(0.3, 2), cast=st.tuples(*[st.floats(0.8, 1.2)] * 3))
def test_gain_and_cast_scale_brightness(gain, cast):
    things = thing_of("heart", "orange", "checked")
    expected = np.minimum(255, gain * np.array(cast) * shoot(things))
    lit = shoot(things, gain=gain, cast=cast)
    assert np.abs(lit - expected).max() <= 0.51 + 0.5 * gain * max(cast)


def test_slope_brightens_to_the_right_and_downwards():
    even, right, down = shoot(), shoot(slope=(0.3, 0)), shoot(slope=(0, 0.3))
    assert right[:, 0] == pytest.approx(0.7 * even[:, 0], abs=1)
    assert right[:, -1] == pytest.approx(1.3 * even[:, -1], abs=1)
    assert (down == right.transpose(1, 0, 2)).all()


@settings(deadline=None, max_examples=20)
@given(noise=st.floats(2, 18), grain=st.integers(0, 2**31 - 1))
def test_noise_has_the_asked_strength(noise, grain):
    rest = shoot(background="purple", noise=noise, grain=grain) - shoot(background="purple")
    assert rest.std() == pytest.approx(noise, rel=0.05, abs=0.05)
    assert abs(rest.mean()) < 0.6 + noise / 20


def test_clutter_makes_blotches_of_its_strength():
    even, blotchy = shoot(), shoot(clutter=0.2)
    change = blotchy / even - 1
    assert 0.03 < change.std() < 0.2
    assert np.abs(change).max() < 0.3
    assert (shoot(clutter=0.2, grain=1) != blotchy).any()
