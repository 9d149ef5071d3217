# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""A CLIP model on its way to integers: swapped, then given points by a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qkit.clip.layout import swap_clip
from qkit.clip.model import ClipModel
from qkit.errors import CalibrationError
from qkit.graph.attach import attach
from qkit.graph.blocks import Block, list_blocks
from qkit.graph.coverage import Coverage, measure_coverage
from qkit.graph.layers import Layer, Towers, list_layers
from qkit.graph.macs import count_macs
from qkit.graph.match import decide
from qkit.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Student:
    """A swapped model and what is known of it before calibration.

    Attributes:
        clip: the model with tokenizer and preprocessing.
        towers: its towers.
        layers: its layers.
        blocks: its transformer blocks.
        macs: multiply-accumulates by layer, for one image and one text.
        total_macs: those of everything, as torch counts them.
    """

    clip: ClipModel
    towers: Towers
    layers: tuple[Layer, ...]
    blocks: tuple[Block, ...]
    macs: Mapping[str, int]
    total_macs: int

    @property
    def model(self) -> nn.Module:
        """The swapped model."""
        return self.clip.model


def prepare(clip: ClipModel, *, copy: bool = True) -> Student:
    """Swap a model's modules; a ``copy`` leaves the one given as it is."""
    model = (deepcopy(clip.model) if copy else clip.model).eval()
    own = ClipModel(clip.spec, model, clip.tokenizer, clip.preprocess, clip.config)
    towers = swap_clip(model)
    layers = list_layers(model, towers)
    macs, total = count_macs(layers, _one_of_each(own))
    return Student(own, towers, layers, list_blocks(model, towers), macs, total)


def give_points(student: Student, recipe: Recipe) -> Coverage:
    """Attach the points that ``recipe`` asks for (replacing earlier ones) and count the coverage.

    Raises:
        RecipeError: a rule matches nothing, or rules contradict each other.
    """
    decided = decide(recipe.rules, student.layers)
    attach(student.model, student.layers, recipe.rules, decided)
    reasons = {name: _reason(recipe, index) for name, index in decided.items()}
    return measure_coverage(
        student.model, student.towers, student.layers, student.macs, student.total_macs, reasons
    )


def require_coverage(coverage: Coverage, least: float | None) -> None:
    """Refuse a recipe that quantizes too little.

    Raises:
        CalibrationError: less than ``least`` (a fraction) of the weights or of the MACs.
    """
    for what, share in (("weights", coverage.weights), ("MACs", coverage.macs)):
        if least is not None and share < least:
            worst = max(coverage.left_float, key=lambda item: (item.macs, item.weights))
            message = (
                f"only {share:.2%} of the {what} are quantized, "
                f"--min-coverage asks for {least:.2%}. "
                f"Most of the rest is {worst.what} ({worst.why})."
            )
            raise CalibrationError(message)


def _reason(recipe: Recipe, index: int | None) -> str:
    if index is None:
        return "no rule of the recipe matches it"
    rule = recipe.rules[index]
    verb = "ignores it" if rule.ignores else "quantizes only some of its operands"
    return f"rule {index + 1} ({rule}) {verb}"


def _one_of_each(clip: ClipModel) -> dict[str, Any]:
    model: Any = clip.model
    device = next(model.parameters()).device
    size = clip.config["preprocess_cfg"]["size"]
    height, width = (size, size) if isinstance(size, int) else size
    pixels = torch.zeros(1, 3, height, width, device=device)
    tokens: Tensor = clip.tokenizer(["a photo"]).to(device)
    return {
        "image": lambda: model.encode_image(pixels),
        "text": lambda: model.encode_text(tokens),
    }
