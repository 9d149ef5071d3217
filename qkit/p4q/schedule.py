# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Optimizers of prompt and adapter whose step sizes fall by a cosine, as P4Q's code has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PROMPT_END = 1e-3  # share of the prompt's step size that is left at the end
ADAPTER_EPS = 1e-4


@dataclass(frozen=True, slots=True)
class Falling:
    """An optimizer and its step size, which depends on the step alone.

    Attributes:
        name: of what it trains.
        optimizer: whose.
        rate: step size at the start.
        end: share of it that is left at the end.
    """

    name: str
    optimizer: torch.optim.Optimizer
    rate: float
    end: float

    def step(self, done: int, total: int) -> None:
        """Move the parameters, after ``done`` of ``total`` steps."""
        fallen = (1 + math.cos(math.pi * done / total)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * (self.end + (1 - self.end) * fallen)
        self.optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """The optimizer's memory under flat names."""
        state = self.optimizer.state_dict()["state"]
        return {
            f"{self.name}.optimizer.{number}.{key}": torch.as_tensor(value)
            for number, entry in state.items()
            for key, value in entry.items()
            if value is not None
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what ``tensors`` gave."""
        state: dict[int, dict[str, Tensor]] = {}
        start = f"{self.name}.optimizer."
        for name, tensor in tensors.items():
            if name.startswith(start):
                number, _, key = name.removeprefix(start).partition(".")
                state.setdefault(int(number), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def prompt_optimizer(prompt: nn.Module, rate: float) -> Falling:
    """SGD without momentum and weight decay."""
    return Falling("prompt", torch.optim.SGD(prompt.parameters(), lr=rate), rate, PROMPT_END)


def adapter_optimizer(adapter: nn.Module, rate: float) -> Falling:
    """AdamW with torch's own weight decay; its step size falls to nothing."""
    adamw = torch.optim.AdamW(adapter.parameters(), lr=rate, eps=ADAPTER_EPS)
    return Falling("adapter", adamw, rate, 0.0)
