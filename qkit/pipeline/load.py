# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Load a run folder back, simulated or in integers."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qkit.artifact.folder import RunFolder, read_run
from qkit.artifact.tensors import from_tensors, to_tensors
from qkit.clip.blank import blank
from qkit.clip.layout import swap_clip
from qkit.clip.model import ClipModel
from qkit.clip.rebuild import rebuild
from qkit.clip.unpadded import drop_padding
from qkit.errors import ArtifactError, QkitError, QkitWarning
from qkit.graph.attach import attach
from qkit.graph.layers import Layer, list_layers
from qkit.graph.match import decide
from qkit.pipeline.finetune.learned import MEMBER, Learned, stored_learned
from qkit.pipeline.run import Run, Runtime
from qkit.recipe import Recipe, parse_recipe
from qkit.runtime.convert import Fallback
from qkit.runtime.heap import trim_heap
from qkit.runtime.kernels import NAMES, Kernel, find_device, find_kernel
from qkit.runtime.load import fill_integers


def load_run(
    path: str | Path, runtime: str | None = None, device: str | torch.device = "cpu"
) -> Run:
    """Load a run folder.

    Args:
        path: where it lies.
        runtime: None simulates integers in float, bit-identical to what was calibrated. "int8" runs
            the stored integers on the CPU's int8 kernels. "exact" does without them, on any
            machine. "int4" is for runs whose inputs stay in float: weights of up to 4 bits stay
            packed. All three only encode: nothing can be calibrated anew. Layers that are
            simulated are listed in ``Run.runtime.fallbacks``, with a QkitWarning.
        device: where it is to compute. On "cuda" int8 runs on the tensor cores (``torch._int_mm``).

    Integers ("int8", "exact") and simulation give the same images' features, bit for bit, where no
    gradient is computed and the CPU's kernel multiplies by its scales in the usual order: a
    simulated layer multiplies whole numbers too. Integer models cut texts where they end, so those
    are off by some 1e-7. With gradients a simulated layer sums products of rounded floats. That
    moves a value that lies between two levels to the other one now and then; the next layers see a
    whole step, and pass on more, up to as much as rounding costs altogether. Half precision does
    the same, and so does another order of attention's own sums, as on another machine.

    Raises:
        ArtifactError: there is no run folder, it is damaged, or a newer qkit wrote it.
        ModelError: the runtime or the device is unknown, or not there.
    """
    place = find_device(device)
    kernel = None if runtime is None else find_kernel(runtime, place)
    folder = read_run(Path(path))
    with ThreadPoolExecutor(1) as beside:  # checksums take as long as building does
        reading = beside.submit(folder.tensors)
        clip, layers, recipe = _built(folder, rebuild if kernel is None else blank)
        tensors = reading.result()
    learned = stored_learned(folder)
    fallbacks = _fill(clip.model, layers, tensors, kernel)
    count, more = (0, ()) if kernel is None else _fill_adapter(learned, kernel)
    served = clip if learned is None else learned.applied_to(clip)
    served.model.to(place)
    how = None
    if runtime is not None and kernel is not None:
        how = Runtime(runtime, NAMES[kernel.gemm], (*fallbacks, *more))
        _tell(how, kernel.missing, len(layers) + count)
        del tensors
        trim_heap()
    return Run(folder, served, layers, recipe, learned, how)


def _built(
    folder: RunFolder, build: Callable[[str, Mapping[str, Any]], ClipModel]
) -> tuple[ClipModel, tuple[Layer, ...], Recipe]:
    """The architecture that a run names, swapped, with its points."""
    path, manifest = folder.path, folder.manifest
    try:
        recipe = parse_recipe(manifest["recipe"], f"{path}/manifest.json")
        clip = build(manifest["model"]["spec"], manifest["model"]["config"])
        layers = list_layers(clip.model, swap_clip(clip.model))
        attach(clip.model, layers, recipe.rules, decide(recipe.rules, layers))
    except ArtifactError:
        raise
    except (KeyError, TypeError, QkitError) as error:
        message = f"run folder {path} is damaged: {error}. Calibrate again."
        raise ArtifactError(message) from error
    return clip, layers, recipe


def _fill(
    model: nn.Module, layers: Sequence[Layer], tensors: dict[str, Tensor], kernel: Kernel | None
) -> tuple[Fallback, ...]:
    """Put a run's tensors into its model, to be simulated or to be run as integers."""
    if kernel is None:
        from_tensors(model, layers, tensors)
        return ()
    drop_padding(model)
    return fill_integers(model, layers, tensors, kernel)


def _fill_adapter(learned: Learned | None, kernel: Kernel) -> tuple[int, tuple[Fallback, ...]]:
    """Let a fine-tuned run's adapter multiply in integers, too; its layers, and which do not."""
    adapter = None if learned is None else learned.adapter
    if adapter is None or adapter.bits is None:
        return 0, ()
    layers = adapter.layers
    found = fill_integers(adapter, layers, to_tensors(adapter, layers), kernel)
    return len(layers), tuple(Fallback(f"{MEMBER}.{f.layer}", f.reason) for f in found)


def _tell(runtime: Runtime, missing: str, total: int) -> None:
    """Warn of what multiplies in the place of better kernels, and of layers in float, by reason."""
    if missing and runtime.kernel:
        message = f"{missing}: integers are multiplied by {runtime.kernel}."
        warnings.warn(message, QkitWarning, stacklevel=3)
    if not runtime.fallbacks:
        return
    reasons = Counter(fallback.reason for fallback in runtime.fallbacks)
    said = "; ".join(f"{count}: {reason}" for reason, count in reasons.most_common())
    message = f"{len(runtime.fallbacks)} of {total} layers compute in float ({said})."
    warnings.warn(message, QkitWarning, stacklevel=3)
