# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""How fast qkit's integers are beside OpenVINO's after NNCF quantized them.

    pip install -c constraints.txt nncf==3.4.0
    python benchmarks/peer_nncf.py

ViT-B-32 with random weights, one thread, processor time, all in turn in one process. NNCF gets what
its documentation advises: the preset for transformers, one sample at a time. Writes its table into
benchmarks/README.md.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import markdown_table, write_section
from speed import make_run, read_options
from torch import Tensor, nn

from qkit.clip.model import ClipModel
from qkit.errors import QkitWarning
from qkit.exports.opened import ExportedModel
from qkit.exports.towers import Tower
from qkit.pipeline.bench.clock import interleaved, summarize
from qkit.pipeline.bench.contenders import (
    FP32,
    INT8,
    float_model,
    integer_run,
    make_batch,
    models_by_name,
)
from qkit.progress import ignore

SAMPLES = {"image": 300, "text": 64}
PRECISIONS = {"NNCF, rest fp32": "f32", "NNCF, rest bf16": "bf16"}


def compiled(model: Any, precision: str) -> Callable[[Tensor], Tensor]:
    """A model in OpenVINO on one thread of the CPU, what is not quantized in ``precision``."""
    import openvino

    options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": precision}
    found = openvino.Core().compile_model(model, "CPU", options)
    return lambda x: torch.from_numpy(found([x.numpy()])[0])


def quantized(clip: ClipModel, tower: str) -> Any:
    """A tower in OpenVINO, any batch size, quantized by NNCF."""
    import nncf
    import openvino

    what = "captions" if tower == "text" else "image"
    samples = make_batch(clip, what, SAMPLES[tower]).data
    module = Tower(clip.model, tower).eval()
    shape = [-1, *samples.shape[1:]]
    with torch.no_grad():
        found = openvino.convert_model(module, example_input=samples[:2], input=[shape])
    data = nncf.Dataset([sample.numpy() for sample in samples.split(1)])
    kind = nncf.ModelType.TRANSFORMER
    return nncf.quantize(found, data, model_type=kind, subset_size=len(samples))


def peers(clip: ClipModel) -> dict[str, nn.Module]:
    """NNCF's model with what is not quantized in fp32, and in bf16."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # no converter knows its operator
    try:
        models = {tower: quantized(clip, tower) for tower in SAMPLES}
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return {
        title: ExportedModel({t: compiled(m, precision) for t, m in models.items()}, None)
        for title, precision in PRECISIONS.items()
    }


def row(models: dict[str, nn.Module], clip: ClipModel, what: str, count: int, n: int) -> list[str]:
    """Milliseconds of each model, and how often int8 fits into the faster of NNCF's."""
    works = models_by_name(models, make_batch(clip, what, count))
    with torch.inference_mode():
        readings = interleaved(works, 1, n, ignore)
    cpu = {name: summarize([one.cpu for one in found]) for name, found in readings.items()}
    times = [f"{1e3 * one.median:.1f} ± {1e3 * one.spread:.1f}" for one in cpu.values()]
    best = min(cpu[title].median for title in PRECISIONS)
    print(what, count, times, flush=True)
    goal = "at least 1x" if count >= 16 else ""
    return [what, str(count), *times, f"{best / cpu[INT8].median:.2f}x", goal]


def main() -> None:
    args = read_options(__doc__)
    warnings.simplefilter("ignore", QkitWarning)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = make_run(Path(folder))
        clip = float_model(path, torch.float32)
        models = {FP32: clip.model, INT8: integer_run(path).model, **peers(clip)}
        jobs = [("image", count) for count in args.images]
        jobs += [(what, count) for what in ("captions", "full texts") for count in args.texts]
        rows = [row(models, clip, what, count, args.repeats) for what, count in jobs]
    header = ["what", "batch", *(f"{name} ms" for name in models), "int8 against NNCF", "goal"]
    images, texts = (" ".join(map(str, sizes)) for sizes in (args.images, args.texts))
    command = f"python benchmarks/peer_nncf.py --repeats {args.repeats}"
    table = markdown_table(header, rows)
    write_section("nncf", f"{command} --images {images} --texts {texts}", table)


if __name__ == "__main__":
    main()
