# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``qkit doctor``: is this installation able to work, and with what?"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import typer
from rich.table import Table
from rich.text import Text

from qkit.cli.console import reported, stdout
from qkit.errors import QkitError

PACKAGES = ("qkit-clip", "torch", "torchvision", "open_clip_torch", "numpy", "scipy", "safetensors")
EXPORTS = ("onnx", "onnxscript", "onnxruntime", "openvino")


@reported
def doctor() -> None:
    """Check the installation: versions, CPU abilities, plug-ins, a self test of the rounding."""
    checks: tuple[tuple[str, Callable[[], str]], ...] = (
        ("python", lambda: f"{platform.python_version()} on {platform.machine()}"),
        *((name, lambda name=name: _version(name)) for name in PACKAGES),
        ("for exports", _exports),
        ("torchvision operators", _torchvision),
        ("open_clip", _open_clip),
        ("cpu", _cpu),
        ("gpu", _gpu),
        ("calibrators", _calibrators),
        ("recipes", _recipes),
        ("demo", _demo),
        ("self test", _self_test),
    )
    table = Table("", "check", "finding", box=None, pad_edge=False)
    failed = 0
    for name, check in checks:
        try:
            mark, finding = Text("ok", style="green"), check()
        except (QkitError, ImportError, OSError, RuntimeError) as error:
            failed += 1
            mark, finding = Text("no", style="red"), " ".join(str(error).split())
        table.add_row(mark, name, finding)
    stdout().print(table)
    if failed:
        raise typer.Exit(1)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        message = f"not installed. Run: pip install {package}"
        raise QkitError(message) from None


def _exports() -> str:
    """Optional packages; none of them has to be there."""
    found = []
    for package in EXPORTS:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


def _torchvision() -> str:
    from qkit.clip.torchvision_ops import extension_loads

    if extension_loads():
        return "compiled operators load"
    return (
        "compiled operators do not load here; qkit declares the two that open_clip's import needs"
    )


def _open_clip() -> str:
    start = time.perf_counter()
    from qkit.clip.loading import architectures

    return f"{len(architectures())} architectures, imported in {time.perf_counter() - start:.1f} s"


def _cpu() -> str:
    import torch

    return (
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}"
    )


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none"


def _calibrators() -> str:
    from qkit.calibration.registry import calibrator_class, list_calibrators

    names = [info.name for info in list_calibrators()]
    for name in names:
        calibrator_class(name)
    if not names:
        message = "none found. Reinstall qkit-clip: its entry points are missing."
        raise QkitError(message)
    return ", ".join(names)


def _recipes() -> str:
    from qkit.recipe import list_recipes, load_recipe

    names = [info.name for info in list_recipes()]
    for name in names:
        load_recipe(name)
    return f"{len(names)}: {', '.join(names)}"


def _demo() -> str:
    from qkit.clip.loading import DEMO, load_model

    parameters = sum(parameter.numel() for parameter in load_model(DEMO).model.parameters())
    return f"its model loads, {parameters / 1e6:.1f} M parameters"


def _self_test() -> str:
    """Fake quantization against torch's own, bit for bit."""
    import torch

    from qkit.numerics import fake_quantize, make_grid, qparams_from_range
    from qkit.spec import QuantSpec, Range

    x = torch.linspace(-1, 3, 1001)
    spec = QuantSpec(4)
    q = qparams_from_range(Range(x.min(), x.max()), spec)
    reference = torch.fake_quantize_per_tensor_affine(x, q.scale, q.zero_point, 0, 15)
    if not torch.equal(fake_quantize(x, make_grid(q, spec)), reference):
        message = "fake quantization differs from torch's. Report this with the versions above."
        raise QkitError(message)
    return "fake quantization equals torch's bit for bit"
