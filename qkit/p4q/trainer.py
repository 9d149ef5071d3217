# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The loop: epochs over drawn samples, kept after each, the same whether interrupted or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from qkit.calibration.memory import Memory
from qkit.errors import TrainingError
from qkit.p4q.adapter import QuantAdapter
from qkit.p4q.config import P4QConfig
from qkit.p4q.loss import Losses
from qkit.p4q.prompt import PromptLearner
from qkit.p4q.schedule import Falling, adapter_optimizer, prompt_optimizer
from qkit.progress import Advance

PART = "epoch"  # name of what is kept


class Objective(Protocol):
    """Knows the data and the frozen model."""

    @property
    def size(self) -> int:
        """Number of samples."""
        ...

    def losses(self, samples: Tensor, epoch: int) -> Losses:
        """The loss of some samples, by number."""
        ...


class Diverged(TrainingError):
    """The loss or a parameter is no number any more; ``epoch`` counts those that went well."""

    def __init__(self, message: str, epoch: int) -> None:
        super().__init__(message)
        self.epoch = epoch


@dataclass(slots=True)
class Parts:
    """What learns; everything else is frozen.

    Attributes:
        prompt: None for none.
        adapter: None for none.
    """

    prompt: PromptLearner | None
    adapter: QuantAdapter | None

    @property
    def named(self) -> dict[str, nn.Module]:
        """Those that there are, by name."""
        both = {"prompt": self.prompt, "adapter": self.adapter}
        return {name: part for name, part in both.items() if part is not None}

    @property
    def parameters(self) -> int:
        """Numbers that learn."""
        return sum(p.numel() for part in self.named.values() for p in part.parameters())

    def tensors(self) -> dict[str, Tensor]:
        """Copies of all parameters by name."""
        return {
            f"{name}.{key}": tensor.detach().clone()
            for name, part in self.named.items()
            for key, tensor in part.named_parameters()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take parameters back."""
        with torch.no_grad():
            for name, part in self.named.items():
                for key, parameter in part.named_parameters():
                    parameter.copy_(tensors[f"{name}.{key}"])


@dataclass(slots=True)
class Trainer:
    """Trains ``parts`` in place; fields after ``config`` are where it stands.

    Attributes:
        parts: what learns.
        objective: what it learns from.
        config: how.
        curve: mean loss and accuracy of each epoch so far.
    """

    parts: Parts
    objective: Objective
    config: P4QConfig
    curve: list[tuple[float, float]] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        return -(-self.objective.size // self.config.batch_size)

    def run(self, memory: Memory, advance: Advance) -> None:
        """Go on from what ``memory`` holds, or from the start, to the end.

        Raises:
            Diverged: a loss or a parameter became infinite or NaN; ``memory`` holds the last epoch
                that went well.
        """
        optimizers = self._optimizers()
        kept = memory.recall(PART)
        if kept is not None:
            self._restore(kept, optimizers)
            advance(self.steps * len(self.curve))
        for part in self.parts.named.values():
            part.train()
        while not self._finished:
            self.curve.append(self._epoch(len(self.curve), optimizers, advance))
            memory.keep(PART, self._state(optimizers))

    @property
    def _finished(self) -> bool:
        done, patience = len(self.curve), self.config.patience
        if done >= self.config.epochs or patience is None or done <= patience:
            return done >= self.config.epochs
        losses = [loss for loss, _ in self.curve]
        return min(losses[-patience:]) >= min(losses[:-patience])

    def _epoch(
        self, epoch: int, optimizers: list[Falling], advance: Advance
    ) -> tuple[float, float]:
        order = np.random.default_rng([self.config.seed, epoch]).permutation(self.objective.size)
        loss, accuracy = 0.0, 0.0
        for step, samples in enumerate(torch.from_numpy(order).split(self.config.batch_size)):
            found = self._step(samples, epoch, step, optimizers)
            advance(1, loss=found[0], accuracy=found[1])
            share = len(samples) / len(order)
            loss, accuracy = loss + share * found[0], accuracy + share * found[1]
        self._check_parameters(epoch)
        return loss, accuracy

    def _step(
        self, samples: Tensor, epoch: int, step: int, optimizers: list[Falling]
    ) -> tuple[float, float]:
        for each in optimizers:
            each.optimizer.zero_grad()
        with torch.enable_grad():
            found = self.objective.losses(samples, epoch)
        loss = float(found.loss.detach())
        if not np.isfinite(loss):
            message = f"the loss became {loss} in step {step + 1} of epoch {epoch + 1}"
            raise Diverged(message, epoch)
        found.loss.backward()
        for each in optimizers:
            each.step(epoch * self.steps + step, self.config.epochs * self.steps)
        return loss, found.accuracy

    def _check_parameters(self, epoch: int) -> None:
        for name, tensor in self.parts.tensors().items():
            if not bool(tensor.isfinite().all()):
                message = f"{name} became infinite or NaN in epoch {epoch + 1}"
                raise Diverged(message, epoch)

    def _optimizers(self) -> list[Falling]:
        found = []
        if self.parts.prompt is not None:
            found.append(prompt_optimizer(self.parts.prompt, self.config.prompt_rate))
        if self.parts.adapter is not None and self.config.adapter is not None:
            found.append(adapter_optimizer(self.parts.adapter, self.config.adapter.rate))
        return found

    def _state(self, optimizers: list[Falling]) -> dict[str, Tensor]:
        found = self.parts.tensors()
        for each in optimizers:
            found |= each.tensors()
        return found | {"curve": torch.tensor(self.curve, dtype=torch.float64)}

    def _restore(self, kept: Mapping[str, Tensor], optimizers: list[Falling]) -> None:
        self.parts.load(kept)
        for each in optimizers:
            each.restore(kept)
        self.curve = [(float(loss), float(accuracy)) for loss, accuracy in kept["curve"]]
