# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Architectures without weights, to be filled with stored ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from qkit.clip.model import ClipModel
from qkit.clip.rebuild import rebuild

RANDOM = frozenset(
    {"normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_"}
    | {"xavier_uniform_", "xavier_normal_", "orthogonal_"}
)


class _NotDrawn(TorchFunctionMode):
    """Leave out every drawing of random weights; the memory stays untouched."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if getattr(func, "__name__", "") in RANDOM:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def blank(spec: str, config: Mapping[str, Any]) -> ClipModel:
    """Build the architecture that ``config`` describes, its parameters on the meta device.

    Buffers (masks, for instance) are as open_clip makes them. A tenth of a second for a ViT-B-32,
    where drawing random weights takes three.

    Raises:
        ModelError: open_clip cannot build it.
    """
    with _NotDrawn():
        clip = rebuild(spec, config)
    replace_parameters(clip.model, lambda parameter: torch.empty_like(parameter, device="meta"))
    return clip


def hold_places(model: nn.Module) -> None:
    """Turn parameters on the meta device into zeros that take no memory, whatever their shape."""
    replace_parameters(
        model, lambda p: torch.zeros((), dtype=p.dtype).expand(p.shape) if p.is_meta else p
    )


def replace_parameters(model: nn.Module, make: Callable[[Tensor], Tensor]) -> None:
    """Put ``make(parameter)`` in the place of every parameter; none of them asks for gradients."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                made = make(parameter.detach())
                module._parameters[name] = nn.Parameter(made, requires_grad=False)
