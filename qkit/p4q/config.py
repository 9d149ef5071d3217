# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""All options of a fine-tuning, checked, and as the table that a run folder stores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from qkit.clip.prompt import POSITIONS, Position
from qkit.errors import TrainingError, choices, nearest

TeacherText = Literal["templates", "prompt"]
TEACHER_TEXTS: tuple[TeacherText, ...] = get_args(TeacherText)
PAPER_RATE = 5e-4 / 20  # of the prompt, times the batch size, as the paper's code has it
PROMPT_RATE = 10 * PAPER_RATE  # which learns better, see benchmarks/p4q_rate.py
MOST_RATE = 1000.0  # beyond, torch itself refuses some
LEAST_BITS, MOST_BITS = 2, 8


@dataclass(frozen=True, slots=True)
class PromptConfig:
    """The prompt.

    Attributes:
        vectors: context vectors.
        position: where the text stands among them: "end", "middle" or "front".
        class_specific: each class has its own vectors.
        init: phrase whose token embeddings they start from, one vector a token; None draws them
            from N(0, 0.02).
        rate: step size of SGD; None is 5e-3 * batch / 20, ten times the paper's.
    """

    vectors: int = 16
    position: Position = "end"
    class_specific: bool = False
    init: str | None = None
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """The adapter.

    Attributes:
        bits: of its weights and inputs; None leaves it in float, for comparison.
        ratio: share of its output in the feature.
        reduction: how much narrower it is inside than the feature.
        rate: step size of AdamW.
    """

    bits: int | None = 8
    ratio: float = 0.2
    reduction: int = 4
    rate: float = 1e-3


@dataclass(frozen=True, slots=True)
class LossConfig:
    """What is made small.

    Attributes:
        task: weight of the cross entropy with the labels, or between images and captions.
        distill: weight of the distance from the teacher's prediction; 0 needs no teacher.
        temperature: divides the logits of both predictions in that distance.
        released: the distance as the paper's released code computes it (see ``qkit.p4q.loss``).
        teacher_text: what the teacher reads: "templates" by hand, or the "prompt" that is learned.
    """

    task: float = 1.0
    distill: float = 1.0
    temperature: float = 1.0
    released: bool = False
    teacher_text: TeacherText = "templates"


@dataclass(frozen=True, slots=True)
class P4QConfig:
    """A fine-tuning.

    Attributes:
        prompt: None learns none: class names stand in templates then.
        adapter: None adds none.
        loss: what is made small.
        epochs: passes over the data.
        batch_size: images a step.
        patience: stop after so many epochs without a lower mean loss; None never does.
        seed: of the shots, the start and the order.
        templates: 7 or 80 hand-written prompt templates, for the teacher.

    Raises:
        TrainingError: an option is impossible, or nothing is to be learned.
    """

    prompt: PromptConfig | None = field(default_factory=PromptConfig)
    adapter: AdapterConfig | None = field(default_factory=AdapterConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    epochs: int = 50
    batch_size: int = 128
    patience: int | None = None
    seed: int = 0
    templates: int = 7

    def __post_init__(self) -> None:
        if self.prompt is None and self.adapter is None:
            message = "neither prompt nor adapter is to be learned. Drop --no-prompt, --no-adapter."
            raise TrainingError(message)
        whole = {"--epochs": self.epochs, "--batch-size": self.batch_size}
        whole |= {} if self.patience is None else {"--patience": self.patience}
        for flag, value in whole.items():
            _require(value >= 1, flag, value, "a whole number from 1 on")
        _require(self.seed >= 0, "--seed", self.seed, "0 or more")
        _check_prompt(self.prompt)
        _check_adapter(self.adapter)
        self._check_loss()

    @property
    def prompt_rate(self) -> float:
        """Step size of the prompt's SGD."""
        given = None if self.prompt is None else self.prompt.rate
        return PROMPT_RATE * self.batch_size if given is None else given

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a run folder."""
        return asdict(self)

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> P4QConfig:
        """Inverse of ``to_dict``.

        Raises:
            TypeError: a key is unknown or a table is none.
        """
        prompt, adapter = table["prompt"], table["adapter"]
        parts = {
            "prompt": None if prompt is None else PromptConfig(**prompt),
            "adapter": None if adapter is None else AdapterConfig(**adapter),
            "loss": LossConfig(**table["loss"]),
        }
        return cls(**{**table, **parts})

    def _check_loss(self) -> None:
        loss = self.loss
        for flag, value in (("--task", loss.task), ("--distill", loss.distill)):
            _require(math.isfinite(value) and value >= 0, flag, value, "0 or more")
        _require(
            loss.task + loss.distill > 0, "--task", loss.task, "a weight above 0, or --distill"
        )
        _require(_positive(loss.temperature), "--temperature", loss.temperature, "more than 0")
        _require_one_of("--teacher-text", loss.teacher_text, TEACHER_TEXTS)
        if loss.teacher_text == "prompt" and self.prompt is None:
            message = "--teacher-text prompt needs a prompt. Drop --no-prompt, or use templates."
            raise TrainingError(message)


def _check_prompt(prompt: PromptConfig | None) -> None:
    if prompt is None:
        return
    _require(prompt.vectors >= 1, "--context", prompt.vectors, "1 or more, or --no-prompt")
    _require_one_of("--position", prompt.position, POSITIONS)
    if prompt.rate is not None:
        _require_rate("--prompt-rate", prompt.rate)


def _check_adapter(adapter: AdapterConfig | None) -> None:
    if adapter is None:
        return
    bits = adapter.bits
    if bits is not None:
        allowed = f"a whole number from {LEAST_BITS} to {MOST_BITS}"
        _require(LEAST_BITS <= bits <= MOST_BITS, "--adapter-bits", bits, allowed)
    _require(0 < adapter.ratio <= 1, "--ratio", adapter.ratio, "more than 0, at most 1")
    _require(adapter.reduction >= 1, "--reduction", adapter.reduction, "1 or more")
    _require_rate("--adapter-rate", adapter.rate)


def _require_rate(flag: str, value: float) -> None:
    _require(0 < value <= MOST_RATE, flag, value, f"more than 0, at most {MOST_RATE:g}")


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _require(holds: bool, flag: str, value: object, allowed: str) -> None:
    if not holds:
        message = f"{flag} {value} is not possible. Use {allowed}."
        raise TrainingError(message)


def _require_one_of(flag: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        message = f"unknown {flag} {value!r}.{nearest(value, known)} Known: {choices(known)}."
        raise TrainingError(message)
