# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Let open_clip be imported where torchvision's compiled operators cannot load.

A torchvision built for CUDA beside a CPU torch fails at import, since it registers fake kernels for
two operators that its extension would have declared. CLIP uses neither: declaring is enough.
"""

import importlib.util
from pathlib import Path

import torch

SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def extension_loads() -> bool:
    """Whether torchvision's compiled operators load; True where there is no torchvision at all."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True
    libraries = sorted(Path(spec.origin).parent.glob("_C*.so"))
    libraries += sorted(Path(spec.origin).parent.glob("_C*.pyd"))
    if not libraries:
        return False
    try:
        torch.ops.load_library(str(libraries[0]))
    except OSError:
        return False
    return True


def _has(name: str) -> bool:
    try:
        torch._C._get_schema(f"torchvision::{name}", "")
    except RuntimeError:
        return False
    return True


def declare_missing() -> torch.library.Library | None:
    """Declare the operators that are missing; the library returned keeps them alive.

    Returns None, and touches nothing, where torchvision's own extension loads.
    """
    if extension_loads():
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in SCHEMAS.items():
        if not _has(name):
            library.define(schema)
    return library
