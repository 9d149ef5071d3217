# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The training loop, the same for all stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.lr_scheduler import LambdaLR

from qkit.demo.training.optimizers import Optimizers, create_optimizers
from qkit.demo.training.plan import Line, Stage
from qkit.progress import Advance

Batch = TypeVar("Batch")
EVERY = 100  # steps a line of the log


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who is told how the training goes: pictures done, and each line of the log."""

    advance: Advance
    show: Callable[[Line], None]


def run_stage(
    name: str,
    stage: Stage,
    module: nn.Module,
    batches: Iterable[Batch],
    losses_of: Callable[[Batch], dict[str, Tensor]],
    decay: float,
    watcher: Watcher,
) -> list[Line]:
    """Train a module in place on the sum of its losses and return the log.

    Computes in bfloat16 (autocast) with the weights in float, on the module's device.
    """
    optimizers = create_optimizers(module, stage.learning_rate, decay)
    schedules = [LambdaLR(each, stage.rate) for each in optimizers]
    log: list[Line] = []
    recent: list[dict[str, Tensor]] = []
    start = time.perf_counter()
    for step, batch in enumerate(batches, 1):
        recent.append(_step(module, batch, losses_of, optimizers))
        for schedule in schedules:
            schedule.step()
        watcher.advance(stage.batch_size)
        if step % EVERY == 0 or step == stage.steps:
            log.append(Line(name, step, _means(recent), time.perf_counter() - start))
            watcher.show(log[-1])
            recent.clear()
    return log


def _step(
    module: nn.Module,
    batch: Batch,
    losses_of: Callable[[Batch], dict[str, Tensor]],
    optimizers: Optimizers,
) -> dict[str, Tensor]:
    device = next(module.parameters()).device
    with _attention(device), torch.autocast(device.type, torch.bfloat16):
        losses = losses_of(batch)
        module.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return {name: loss.detach() for name, loss in losses.items()}


def _attention(device: torch.device) -> AbstractContextManager[None]:
    """On a CPU torch's fused attention is slower backwards than the plain one, at these sizes."""
    backends = [SDPBackend.MATH] if device.type == "cpu" else list(SDPBackend.__members__.values())
    return sdpa_kernel(backends)


def _means(losses: list[dict[str, Tensor]]) -> dict[str, float]:
    return {name: float(torch.stack([each[name] for each in losses]).mean()) for name in losses[0]}
