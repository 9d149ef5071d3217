# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""One loop for whatever is learned: draw a batch, step, let the rate fall to nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from calibrators.reconstruction.halfway import NOWHERE, Halfway
from qkit.calibration.weights import LearnedWeight, applied, dropping
from qkit.precision import half_products
from qkit.progress import Advance

MOMENTA = (0.9, 0.99)  # Adam's: runs are short, so the second moment must not lag


@dataclass(frozen=True, slots=True)
class Training:
    """How to learn.

    Attributes:
        iterations: steps, a batch each.
        rate: step size (Adam) of weights, in levels.
        fine: step size of biases, and of the logarithms of scales.
        dropped: share of the values of inputs that are left unrounded at random (QDrop).
        half: products in bfloat16, see ``half_products``.
        seed: of the batches' order.
    """

    iterations: int
    rate: float
    fine: float
    dropped: float
    half: bool
    seed: int

    def run(
        self,
        weights: Sequence[LearnedWeight],
        batches: int,
        loss: Callable[[int], Tensor],
        advance: Advance,
        halfway: Halfway = NOWHERE,
    ) -> None:
        """Lower ``loss``, of the number of a batch, by moving ``weights``."""
        adam = torch.optim.Adam(self._groups(weights), betas=MOMENTA)
        learned = [tensor for group in adam.param_groups for tensor in group["params"]]
        layers, device = [weight.layer for weight in weights], weights[0].latent.device
        with torch.enable_grad(), _seeded(self.seed), dropping(layers, self.dropped):
            start = halfway.recall(adam, learned)
            if start:
                advance(start)
            for done, number in islice(enumerate(self._order(batches)), start, None):
                self._fall(adam, done)
                adam.zero_grad()
                with applied(weights):
                    with half_products(device, wanted=self.half):
                        found = loss(number)
                    found.backward()
                adam.step()
                halfway.keep(done + 1, adam, learned)
                advance(1, loss=float(found.detach()))

    def _fall(self, adam: torch.optim.Adam, done: int) -> None:
        """Let the step sizes fall along half a cosine."""
        left = (1 + math.cos(math.pi * done / self.iterations)) / 2
        for group in adam.param_groups:
            group["lr"] = left * group["start"]

    def _groups(self, weights: Sequence[LearnedWeight]) -> list[dict[str, object]]:
        latents = [weight.latent for weight in weights]
        others = [t for weight in weights for t in (weight.growth, weight.correction)]
        return [
            {"params": tensors, "lr": rate, "start": rate}
            for tensors, rate in ((latents, self.rate), (others, self.fine))
        ]

    def _order(self, batches: int) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        done = 0
        while done < self.iterations:
            for number in torch.randperm(batches, generator=generator).tolist():
                if done < self.iterations:
                    yield number
                done += 1


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """While entered chance is the same at every run; afterwards it goes on as if nothing was."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
