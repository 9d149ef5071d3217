# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a reader without colours sees, and names that are hard to fit."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

LONG = "visual.trunk.patch_embed.proj"


@pytest.fixture
def lines() -> Callable[..., list[str]]:
    """Lines of something printed, or of something that prints; none is wider than the console."""

    def render(what: Any, width: int = 80) -> list[str]:
        console = Console(file=io.StringIO(), width=width, no_color=True, highlight=False)
        what(console) if callable(what) else console.print(what)
        text = console.file.getvalue()
        assert "\x1b" not in text
        assert max(map(cell_len, text.splitlines()), default=0) <= width
        return text.splitlines()

    return render


@pytest.fixture
def large(model_report, layer, sdpa, floating, block, metric, space):
    """A model of 32 blocks a tower, some names of which are long, with labelled data."""
    paths = {"image": "visual.trunk.stages.0.blocks", "text": "transformer.resblocks"}
    layers = [floating(name=LONG, tensors=())]
    for tower, path in paths.items():
        for i in range(32):
            where = {"tower": tower, "block": i, "local_sqnr_db": 30.25 - i}
            layers.append(layer(name=f"{path}.{i}.mlp.c_fc", **where))
            layers.append(sdpa(name=f"{path}.{i}.attn.sdpa", **where))
    layers.append(layer(name=f"{LONG}.inner", block=None, local_sqnr_db=-12.75))
    blocks = tuple(block(i, 40.0 - i, tower) for tower in paths for i in range(32))
    labelled = replace(space(), ece_float=0.1234, ece_quantized=0.2345, logit_kl=1.2345e-5)
    metrics = (metric(space=labelled), metric(data="classes:elsewhere/aeroplanes", space=space()))
    return model_report(layers=tuple(layers), blocks=blocks, metrics=metrics)
