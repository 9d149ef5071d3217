# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The two stages: first the image tower learns shapes, then both towers learn to match."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkit.clip.model import ClipModel
from qkit.demo.scenes.words import SHAPES
from qkit.demo.training.batches import (
    Pairs,
    Scenes,
    Shaped,
    ShapedThings,
    class_prompts,
    training_batches,
)
from qkit.demo.training.loop import Watcher, run_stage
from qkit.demo.training.objective import caption_loss, naming_loss
from qkit.demo.training.plan import Line, Plan

MAX_SCALE = 100.0  # of the logits, as in CLIP


def train(clip: ClipModel, plan: Plan, watcher: Watcher) -> list[Line]:
    """Train a model in place through both stages and return the log."""
    clip.model.train()
    log = learn_shapes(clip, plan, watcher) + learn_pairs(clip, plan, watcher)
    clip.model.eval()
    return log


def learn_shapes(clip: ClipModel, plan: Plan, watcher: Watcher) -> list[Line]:
    """Teach the image tower to tell the shapes of single things, by a head dropped afterwards.

    Matching pictures and texts alone learns colours at once and shapes very late.
    """
    model: Any = clip.model
    device = model.logit_scale.device
    width = model.visual.output_dim
    student = nn.Sequential(model.visual, nn.Linear(width, len(SHAPES)).to(device))
    things = ShapedThings(clip.preprocess, plan.seed, plan.shapes.size)
    batches = training_batches(things, plan.shapes.batch_size, plan.workers)

    def losses(batch: Shaped) -> dict[str, Tensor]:
        scores = student(batch.pixels.to(device)).float()
        return {"shape": F.cross_entropy(scores, batch.shape.to(device))}

    return run_stage("shapes", plan.shapes, student, batches, losses, plan.weight_decay, watcher)


def learn_pairs(clip: ClipModel, plan: Plan, watcher: Watcher) -> list[Line]:
    """Teach both towers to match pictures and captions, and to name single things."""
    model: Any = clip.model
    device = model.logit_scale.device
    scenes = Scenes(clip.tokenizer, clip.preprocess, plan.seed, plan.pairs.size)
    batches = training_batches(scenes, plan.pairs.batch_size, plan.workers)
    prompts, chosen = class_prompts(clip.tokenizer), torch.Generator().manual_seed(plan.seed)

    def losses(batch: Pairs) -> dict[str, Tensor]:
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(MAX_SCALE))
        form = int(torch.randint(len(prompts), (), generator=chosen))
        tokens = torch.cat([batch.tokens, prompts[form]]).to(device)
        images, texts, scale = model(batch.pixels.to(device), tokens)
        captions, names = texts.float().split([len(batch.tokens), prompts.shape[1]])
        return {
            "caption": caption_loss(images.float(), captions, scale),
            "naming": naming_loss(images.float(), names, scale, batch.shown.to(device)),
        }

    return run_stage("pairs", plan.pairs, model, batches, losses, plan.weight_decay, watcher)
