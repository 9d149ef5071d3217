# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Muon for the matrices inside the blocks, AdamW for all else."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

Optimizers = tuple[Optimizer, ...]
TABLES = ("embedding", "logit_scale")  # never decayed


def create_optimizers(model: nn.Module, learning_rate: float, decay: float) -> Optimizers:
    """Split a CLIP model's parameters, each into exactly one optimizer.

    Muon needs fewer pictures than AdamW to learn the shapes. Its updates are scaled to AdamW's
    size, so that one learning rate serves both.
    """
    inside, decayed, plain = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and ".resblocks." in f".{name}":
            inside.append(parameter)
        elif parameter.ndim > 1 and not any(table in name for table in TABLES):
            decayed.append(parameter)
        else:
            plain.append(parameter)
    groups = [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
    return (
        Muon(inside, lr=learning_rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), eps=1e-6),
    )
