# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The parts of the demo data: what each shows, how much, and what lies at an index."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from PIL import Image

from qkit.demo.scenes.captions import describe
from qkit.demo.scenes.render import render
from qkit.demo.scenes.scene import DAYLIGHT, DUSK, Scene, draw_scene
from qkit.demo.scenes.words import COMBINATIONS, HELD_OUT, TRAINED, Combination, class_name

SEED = 2026
PAIR_SHARE = 0.35  # of captioned scenes have two things


class Part(StrEnum):
    """A part of the demo data.

    SHAPES: single things of the trained combinations in turn, without end.
    TRAIN: captioned scenes without end, only of trained combinations.
    CALIB: captioned scenes for calibration, of trained combinations.
    LABELLED: single things of the trained combinations at dusk, to classify among all.
    UNSEEN: single things of the combinations never trained at dusk, to classify among all.
    PAIRS: captioned scenes of all combinations, for retrieval.
    TUNE: single things of the trained combinations at dusk, 16 of each, to fine-tune on.
    """

    SHAPES = "shapes"
    TRAIN = "train"
    CALIB = "calib"
    LABELLED = "labelled"
    UNSEEN = "unseen"
    PAIRS = "pairs"
    TUNE = "tune"  # last: a part's place is in its seed


SIZES: dict[Part, int] = {
    Part.CALIB: 512,
    Part.LABELLED: 20 * len(TRAINED),
    Part.UNSEEN: 30 * len(HELD_OUT),
    Part.PAIRS: 1000,
    Part.TUNE: 16 * len(TRAINED),
}
LABELS: dict[Part, tuple[Combination, ...]] = {
    Part.SHAPES: TRAINED,
    Part.LABELLED: TRAINED,
    Part.UNSEEN: HELD_OUT,
    Part.TUNE: TRAINED,
}
CLASS_NAMES = tuple(class_name(combination) for combination in COMBINATIONS)


@dataclass(frozen=True, slots=True)
class Item:
    """One picture of the demo data and what is known about it.

    Attributes:
        scene: what it shows.
        name: part and index, such as "pairs/17".
        caption: None for labelled parts.
        label: index into CLASS_NAMES; None for captioned parts.
    """

    scene: Scene
    name: str
    caption: str | None
    label: int | None

    def render(self) -> Image.Image:
        """Draw the picture, RGB."""
        return render(self.scene)


def item(part: Part, index: int, seed: int = SEED) -> Item:
    """Return what lies at an index of a part; the same whenever it is asked for."""
    part = Part(part)
    rng = np.random.default_rng([seed, list(Part).index(part), index])
    name = f"{part}/{index}"
    if part in LABELS:
        combination = LABELS[part][index % len(LABELS[part])]
        scene = draw_scene(rng, [combination], DAYLIGHT if part is Part.SHAPES else DUSK)
        return Item(scene, name, None, COMBINATIONS.index(combination))
    combinations = COMBINATIONS if part is Part.PAIRS else TRAINED
    scene = draw_scene(rng, combinations, pair=bool(rng.random() < PAIR_SHARE))
    return Item(scene, name, describe(scene, rng), None)
