# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The picture of a scene: background, things, light, noise."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from qkit.demo.scenes.scene import SIDE, Light, Scene, Thing
from qkit.demo.scenes.shapes import Points, outline
from qkit.demo.scenes.words import COLOURS

Plane = NDArray[np.float32]
"""One value a pixel, ``(SIDE, SIDE)``."""
Picture = NDArray[np.float32]
"""Red, green and blue of 255, ``(SIDE, SIDE, 3)``."""

FINE = 4  # polygons are drawn this much larger and averaged down, for soft edges
PERIOD = 6.0  # of the textures, pixels
PALE = 0.45  # how far backgrounds are from their pure colour


def render(scene: Scene) -> Image.Image:
    """Picture of a scene, RGB, SIDE x SIDE pixels; the same scene gives the same pixels."""
    rng = np.random.default_rng(scene.light.grain)
    picture = _background(scene, rng)
    for thing in scene.things:
        cover = _mask(thing)[..., None]
        picture += cover * (_paint(thing) - picture)
    pixels = _take(picture, scene.light, rng)
    return Image.fromarray(pixels)


def _background(scene: Scene, rng: np.random.Generator) -> Picture:
    """A pale colour with coarse blotches."""
    base = np.array(COLOURS[scene.background], np.float32)
    pale = base + PALE * (128 - base)
    blotches = rng.uniform(-1, 1, size=(9, 9)).astype(np.float32)
    wide = Image.fromarray(blotches).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    shade = 1 + scene.clutter * np.asarray(wide)[..., None]
    return np.asarray(pale * shade, np.float32)


def _mask(thing: Thing) -> Plane:
    """How much of each pixel a thing covers, 0 to 1."""
    form = outline(thing.combination[1])
    canvas = Image.new("L", (SIDE * FINE, SIDE * FINE))
    pen = ImageDraw.Draw(canvas)
    pen.polygon(_place(form.outer, thing), fill=255)
    if form.hole is not None:
        pen.polygon(_place(form.hole, thing), fill=0)
    return np.asarray(canvas.reduce(FINE), np.float32) / np.float32(255)


def _place(points: Points, thing: Thing) -> list[tuple[float, float]]:
    cos, sin = math.cos(thing.angle), math.sin(thing.angle)
    turned = points @ np.array([[cos, sin], [-sin, cos]])
    return [(float(x), float(y)) for x, y in FINE * (thing.radius * turned + thing.centre)]


def _paint(thing: Thing) -> Picture:
    """Colour of a thing, with its texture in a darker or, for dark colours, a lighter tone."""
    base = np.array(COLOURS[thing.combination[0]], np.float32)
    other = base * 0.7 if base.mean() > 90 else base + 0.25 * (255 - base)
    return base + _texture(thing)[..., None] * (other - base)


def _texture(thing: Thing) -> Plane:
    """Where the second tone is, 0 or 1."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    wave_x = np.sin((x - thing.centre[0]) * 2 * math.pi / PERIOD)
    wave_y = np.sin((y - thing.centre[1]) * 2 * math.pi / PERIOD)
    patterns = {
        "plain": x < 0,
        "striped": wave_y > 0,
        "spotted": wave_x + wave_y > 1,
        "checked": wave_x * wave_y > 0,
    }
    return np.asarray(patterns[thing.texture], np.float32)


def _take(picture: Picture, light: Light, rng: np.random.Generator) -> NDArray[np.uint8]:
    across = np.linspace(-1, 1, SIDE, dtype=np.float32)
    slope = 1 + light.slope[0] * across[None, :] + light.slope[1] * across[:, None]
    lit = picture * slope[..., None] * (light.gain * np.array(light.cast, np.float32))
    lit += light.noise * rng.standard_normal(lit.shape, np.float32)
    return np.clip(np.rint(lit), 0, 255).astype(np.uint8)
