# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Half precision for what is learned from, never for what is measured."""

from __future__ import annotations

import torch


def half_products(device: torch.device, *, wanted: bool = True) -> torch.autocast:
    """Products in bfloat16 while entered, where the device multiplies such numbers itself.

    It rounds by up to 0.2 %, which weights that learn to undo 8-bit rounding take for its error.
    Parameters stay as they are.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and _has_half(device))


def _has_half(device: torch.device) -> bool:
    if device.type != "cpu":
        return device.type == "cuda"
    return any(there for name, there in torch.cpu.get_capabilities().items() if "bf16" in name)
