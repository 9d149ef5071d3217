# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Train a prompt and an adapter for a frozen student; the student itself stays as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qkit.calibration.memory import Memory
from qkit.calibration.observe import set_mode
from qkit.clip.model import ClipModel
from qkit.clip.prompt import LearnedPrompt
from qkit.clip.prompt_layout import lay_out
from qkit.clip.prompting import phrase_vectors, token_width
from qkit.data import Dataset
from qkit.errors import DataError
from qkit.graph.folded import folded
from qkit.nn.tensor_quantizer import Mode
from qkit.p4q.adapter import QuantAdapter, new_adapter
from qkit.p4q.config import P4QConfig, PromptConfig
from qkit.p4q.loss import Loss
from qkit.p4q.prompt import PromptLearner, per_class, random_context
from qkit.p4q.trainer import Parts, Trainer
from qkit.pipeline.evaluate import Evaluator, Pair
from qkit.pipeline.finetune.learned import Learned
from qkit.pipeline.finetune.objective import Images, TowerObjective
from qkit.pipeline.finetune.step_texts import caption_texts, class_texts
from qkit.progress import Progress, Silent

Curve = tuple[tuple[float, float], ...]
"""Mean loss and accuracy of each epoch."""


class Tuned(NamedTuple):
    """What was learned, and how it went."""

    learned: Learned
    curve: Curve


def tune(
    clip: ClipModel,
    dataset: Dataset,
    config: P4QConfig,
    memory: Memory,
    progress: Progress,
    *,
    cache: bool = True,
    known: Pair | None = None,
) -> Tuned:
    """Learn from ``dataset``.

    Args:
        clip: a model whose points are switched on; switched off it is the float teacher. A model
            without points is its own teacher: that tunes in float, for comparison.
        dataset: the training samples.
        config: how.
        memory: keeps each epoch; what it holds already is not done again.
        progress: who shows how far it is.
        cache: encode each image once; else anew at every step, with the same result but for float
            rounding.
        known: features of the images where they are encoded already (``Evaluator.encode``).

    Raises:
        DataError: a class name is too long for the context, or the data fit no option.
        ModelError: the text tower takes no context vectors.
        Diverged: see ``Trainer.run``.
    """
    prompt = _new_prompt(clip, dataset, config)
    modes = (Mode.OFF, Mode.QUANTIZE) if config.loss.distill else (Mode.QUANTIZE,)
    watched, quiet = (Evaluator(clip, modes, progress=p) for p in (progress, Silent()))
    set_mode(clip.model, Mode.QUANTIZE)
    with _frozen(clip.model):
        if known is None and cache:
            known = watched.encode(dataset).features
        images = Images(quiet, dataset, known)
        parts = Parts(prompt, _new_adapter(clip, images, config))
        fixed = _fixed_texts(clip, dataset, config, progress)
        trainer = Trainer(parts, _objective(clip, images, config, parts, fixed), config)
        steps = config.epochs * trainer.steps
        with progress.phase("train", steps) as advance, folded(clip.model):
            trainer.run(memory, advance)
    return Tuned(_learned(parts, config, dataset), tuple(trainer.curve))


def check_targets(
    clip: ClipModel, dataset: Dataset, targets: Sequence[Dataset], config: P4QConfig
) -> None:
    """Refuse evaluations that the prompt will not fit, before it is learned.

    Raises:
        DataError: a class name is too long, or is none of those that get vectors of their own.
    """
    classes = [target for target in targets if target.task == "classification"]
    if config.prompt is None or dataset.task != "classification":
        return
    context = _start(clip, dataset, config.prompt, config.seed)
    planned = LearnedPrompt(context, config.prompt.position, False, dataset.classnames)
    for target in classes:
        planned.context_of(target.classnames)
        lay_out(clip, target.classnames, planned.vectors, planned.position, captions=False)


def _objective(
    clip: ClipModel, images: Images, config: P4QConfig, parts: Parts, fixed: Pair
) -> TowerObjective:
    dataset = images.dataset
    if dataset.task == "classification":
        student, teacher = class_texts(clip, dataset.classnames, config, parts, fixed)
        labels = torch.tensor([sample.label for sample in dataset.samples])
    else:
        student, teacher = caption_texts(clip, dataset, config, parts, fixed)
        labels = None
    return TowerObjective(clip, images, student, teacher, labels, parts, Loss(config.loss))


def _fixed_texts(clip: ClipModel, dataset: Dataset, config: P4QConfig, progress: Progress) -> Pair:
    """Features of class names in templates, or of all captions, by mode; those that are read."""
    by_hand = config.loss.distill > 0 and config.loss.teacher_text == "templates"
    wanted = {Mode.OFF: by_hand, Mode.QUANTIZE: config.prompt is None}
    modes = tuple(mode for mode, needed in wanted.items() if needed)
    if not modes:
        return {}
    evaluator = Evaluator(clip, modes, config.templates, progress=progress)
    if dataset.task == "classification":
        found = evaluator.class_texts(dataset.classnames)
    else:
        found = evaluator.caption_texts([t for sample in dataset.samples for t in sample.texts])
    device = next(clip.model.parameters()).device
    return {mode: features.to(device) for mode, features in found.items()}


def _new_prompt(clip: ClipModel, dataset: Dataset, config: P4QConfig) -> PromptLearner | None:
    if config.prompt is None:
        return None
    context = _start(clip, dataset, config.prompt, config.seed)
    return PromptLearner(context).to(next(clip.model.parameters()).device)


def _start(clip: ClipModel, dataset: Dataset, prompt: PromptConfig, seed: int) -> Tensor:
    """Context vectors to start from, ``(vectors, width)`` or ``(classes, vectors, width)``."""
    if prompt.init is not None:
        context = phrase_vectors(clip, prompt.init)
    else:
        context = random_context(prompt.vectors, token_width(clip.model), seed)
    if not prompt.class_specific:
        return context
    if dataset.task != "classification":
        message = f"--class-specific needs classes, but {dataset.source} has captions. Drop it."
        raise DataError(message)
    return per_class(context, len(dataset.classnames))


def _new_adapter(clip: ClipModel, images: Images, config: P4QConfig) -> QuantAdapter | None:
    options = config.adapter
    if options is None:
        return None
    width = images.of(torch.tensor([0]))[Mode.QUANTIZE].shape[-1]
    made = new_adapter(width, options.reduction, options.ratio, options.bits, config.seed)
    return made.to(next(clip.model.parameters()).device)


def _learned(parts: Parts, config: P4QConfig, dataset: Dataset) -> Learned:
    prompt = None
    if parts.prompt is not None and config.prompt is not None:
        context = parts.prompt.context.detach().clone()
        captions = dataset.task == "retrieval"
        prompt = LearnedPrompt(context, config.prompt.position, captions, dataset.classnames)
    if parts.adapter is not None:
        parts.adapter.freeze()
    return Learned(config, prompt, parts.adapter)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """While entered nothing of the model learns, so that its rounded weights are kept."""
    before = [(p, p.requires_grad) for p in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, was in before:
            parameter.requires_grad_(was)
