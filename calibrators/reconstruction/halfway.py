# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a long training needs to go on where it was interrupted, to the same result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qkit.calibration.memory import Forgetful, Memory

EVERY = 64  # steps: seconds to minutes, beside which writing takes little
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
CHANCE, DONE = "chance", "done"


@dataclass(frozen=True, slots=True)
class Halfway:
    """Where a training keeps how far it is.

    Attributes:
        memory: of all parts.
        name: of this one.
    """

    memory: Memory
    name: str

    def keep(self, done: int, adam: torch.optim.Adam, learned: Sequence[Tensor]) -> None:
        """Keep what ``done`` steps learned, Adam's moments, and the state of chance (CPU)."""
        if done % EVERY:
            return
        found = {CHANCE: torch.get_rng_state(), DONE: torch.tensor(done)}
        for number, tensor in enumerate(learned):
            found[f"{number}.value"] = tensor.detach().cpu()
            found |= {f"{number}.{name}": adam.state[tensor][name].cpu() for name in MOMENTS}
        self.memory.keep(self.name, found)

    def recall(self, adam: torch.optim.Adam, learned: Sequence[Tensor]) -> int:
        """Put back what was kept; the number of steps that were done, 0 where nothing was kept."""
        found = self.memory.recall(self.name)
        if found is None:
            return 0
        for number, tensor in enumerate(learned):
            with torch.no_grad():
                tensor.copy_(found[f"{number}.value"])
            moments = {name: found[f"{number}.{name}"] for name in MOMENTS}
            adam.state[tensor] = {
                name: value if name == "step" else value.to(tensor.device)
                for name, value in moments.items()
            }
        torch.set_rng_state(found[CHANCE])
        return int(found[DONE])


NOWHERE = Halfway(Forgetful(), "")
