# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""How layers are called where there is little room."""

from __future__ import annotations

import re
from pathlib import PurePath

from qkit.report.layer import LayerReport

BLOCK = re.compile(r"^(?:.*\.)?(?:resblocks|blocks|layers|layer)\.\d+\.")


def short_name(name: str) -> str:
    """A layer's name without the path to its block: "mlp.c_fc"."""
    return BLOCK.sub("", name)


def place(layer: LayerReport) -> str:
    """Tower and block of a layer: "image 3"."""
    return layer.tower if layer.block is None else f"{layer.tower} {layer.block}"


def source_name(source: str) -> str:
    """A data source without its folders: "classes:a/b/c" becomes "classes:c"."""
    kind, colon, path = source.partition(":")
    return kind + colon + PurePath(path).name
