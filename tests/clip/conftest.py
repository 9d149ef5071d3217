# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Seeded values for open_clip's own attention modules."""

from collections.abc import Callable

import pytest
import torch
from torch import nn


@pytest.fixture
def fill(normal) -> Callable[[nn.Module], nn.Module]:
    """Add noise to every parameter: those that start at 0 or 1 must be told apart too."""

    def fill(module: nn.Module) -> nn.Module:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(normal(*parameter.shape) / 4)
        return module.eval()

    return fill
