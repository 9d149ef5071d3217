# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Which product a machine can run, and why not another."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch

from qkit.errors import ModelError, choices
from qkit.nn.integers import IntegerWeight
from qkit.nn.operand import Operand
from qkit.nn.product import ExactProduct
from qkit.runtime.gemm import Gemm
from qkit.runtime.matmul import MatmulGemm
from qkit.runtime.weight_only import CudaPackedProduct, PackedProduct

NAMES: Mapping[type[ExactProduct] | None, str] = MappingProxyType(
    {
        Gemm: "oneDNN's int8 kernels",
        MatmulGemm: "torch._int_mm",
        CudaPackedProduct: "torch's kernel for float inputs and 4-bit weights",
        PackedProduct: "float products of unpacked 4-bit weights",
        ExactProduct: "float products of few integers at once",
        None: "",
    }
)
DEVICES = ("cpu", "cuda")
RUNTIMES: Mapping[str, Mapping[str, tuple[type[ExactProduct], ...]]] = MappingProxyType(
    {
        "int8": {"cpu": (Gemm, MatmulGemm), "cuda": (MatmulGemm,)},
        "int4": {"cpu": (PackedProduct,), "cuda": (CudaPackedProduct, PackedProduct)},
        "exact": {"cpu": (ExactProduct,), "cuda": (ExactProduct,)},
    }
)
"""What multiplies, best first, by runtime and kind of device."""


class Kernel(NamedTuple):
    """What multiplies.

    gemm: None where nothing does; missing: what better ones lack here, "" for nothing.
    """

    gemm: type[ExactProduct] | None
    missing: str


def find_kernel(runtime: str, device: torch.device) -> Kernel:
    """The best product that works on a device.

    Raises:
        ModelError: the runtime is unknown.
    """
    if runtime not in RUNTIMES:
        message = f"unknown runtime {runtime!r}. Use one of: {choices(RUNTIMES)}."
        raise ModelError(message)
    said = ""
    for gemm in RUNTIMES[runtime][device.type]:
        lack = missing_kernel(gemm, device)
        if lack is None:
            return Kernel(gemm, said)
        said = said or lack
    return Kernel(None, said)


def missing_kernel(
    gemm: type[ExactProduct] = Gemm, device: str | torch.device = "cpu"
) -> str | None:
    """Why a product cannot run, or is not exact, on a device; None where it can."""
    if gemm is Gemm and not _has_onednn():
        return "this torch has no oneDNN int8 kernels"
    weight, operand, expected = _trial(gemm)
    try:
        product = gemm(weight, None).moved(lambda tensor: tensor.to(device))
        found = product(operand._replace(values=operand.values.to(device))).cpu()
    except RuntimeError as error:
        return f"{NAMES[gemm]} failed here ({str(error).splitlines()[0]})"
    if not torch.equal(found, expected):
        return f"{NAMES[gemm]} saturate or fail here"
    return None


def _trial(gemm: type[ExactProduct]) -> tuple[IntegerWeight, Operand, torch.Tensor]:
    """The largest integers that a product takes, and what it is to give."""
    if issubclass(gemm, PackedProduct):
        values, rows, zero = [[7, 7], [-8, -8]], torch.tensor([[4.0, 0.5], [1.0, -2.0]]), 0
    else:  # sums beyond 16 bits
        values, zero = [[127, 127], [-128, -128]], 7
        rows = torch.tensor([[255, 255], [1, 130]], dtype=torch.uint8)
    weight = IntegerWeight(torch.tensor(values, dtype=torch.int8), torch.ones(2))
    return weight, Operand(rows, 1.0, zero), (rows.float() - zero) @ weight.values.float().T


def _has_onednn() -> bool:
    available = torch.backends.mkldnn.is_available()
    return available and hasattr(torch.ops.onednn, "qlinear_pointwise")


def find_device(name: str | torch.device) -> torch.device:
    """A device by its name.

    Raises:
        ModelError: it is no CPU or CUDA device, or not there.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in DEVICES:
        message = f"unknown device {str(name)!r}. Use one of: {choices(DEVICES)}."
        raise ModelError(message)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        message = f"torch sees no device {str(name)!r}. Use 'cpu'."
        raise ModelError(message)
    return device
