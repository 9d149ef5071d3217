# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Export a run, load the export back, and compare."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from qkit.artifact.folder import MODEL, check_target, write_json, written_whole
from qkit.clip.unpadded import keep_padding
from qkit.errors import ExportError, QkitWarning
from qkit.exports.formats import Format, format_of
from qkit.exports.opened import PROOF
from qkit.exports.proof import Encode, Features, compare, prove, run
from qkit.exports.rewrite import rewrite
from qkit.exports.towers import TOWERS, Tower, signatures
from qkit.pipeline.export.interface import describe
from qkit.pipeline.export.samples import Samples, open_samples
from qkit.pipeline.load import load_run
from qkit.pipeline.run import Run
from qkit.pipeline.save import versions
from qkit.progress import Progress, Silent
from qkit.report.export import BackendProof, ExportReport, bound_of

CLASSES = "classes.safetensors"


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a run before it is exported."""

    samples: Samples
    reference: Features
    float_sums: BackendProof
    interface: dict[str, Any]
    classes: Tensor | None


def export(
    path: str | Path,
    format: str,
    out: str | Path,
    *,
    data: str | None = None,
    samples: int = 64,
    seed: int = 0,
    min_cosine: float | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Write both towers of a run in another format, then run that and compare.

    The folder holds a file a tower and ``export.json`` with the proof; of a run with a prompt for
    class names also ``classes.safetensors`` with their embeddings, since an exported text tower
    reads tokens and no context vectors. It is written whole or not at all, also where the
    comparison fails: look at ``passed``.

    Args:
        path: run folder.
        format: "onnx", "openvino" or "compiled".
        out: folder to write.
        data: what to compare on, as a calibration takes it; None draws qkit's own scenes.
        samples: images, and texts.
        seed: of the draw.
        min_cosine: least mean cosine to the simulated model; None allows twice what the
            same model is off that sums floats, and 0.001.
        overwrite: replace an export that is there.
        progress: who shows how far it is.

    Raises:
        ArtifactError: the run cannot be loaded, or the folder not written.
        DataError: the data cannot be read.
        ExportError: the format is unknown, a package or a compiler is missing, or the model has
            something that the format cannot hold.
    """
    form, target, progress = format_of(format), Path(out), progress or Silent()
    form.require()
    check_target(target, overwrite, PROOF, "export")
    with progress.phase("reference", None):
        known, integer = _look(Path(path), form, data, samples, seed)
    with written_whole(target) as folder:
        report = _write(form, folder, known, integer, progress)
        if min_cosine is not None:
            report = replace(report, bounds=dict.fromkeys(TOWERS, min_cosine))
        write_json(folder / PROOF, report.to_dict())
    return report


def _look(path: Path, form: Format, data: str | None, count: int, seed: int) -> tuple[_Known, Run]:
    """What the simulated model gives for the samples, and the integers that are to be exported."""
    simulated = load_run(path)
    samples = open_samples(simulated.clip, data, count, seed)
    reference = _features(simulated, samples)
    float_sums = compare("sums of floats", _features(simulated, samples, gradients=True), reference)
    prompt = simulated.clip.prompt
    named = () if prompt is None or prompt.captions else prompt.classes
    classes = simulated.class_embeddings(named) if named else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QkitWarning)  # the report tells what the export leaves
        integer = load_run(path, runtime="exact")
    keep_padding(integer.model)
    first = replace(samples, inputs={name: some[:1] for name, some in samples.inputs.items()})
    _features(integer, first)  # points keep their constants then, which no export can trace
    shown = signatures(integer.clip.config, simulated.clip.tokenizer([""]).shape[1])
    interface = describe(simulated.clip, form, shown, any_length=samples.any_length)
    interface["classes"] = list(named)
    return _Known(samples, reference, float_sums, interface, classes), integer


def _features(loaded: Run, samples: Samples, *, gradients: bool = False) -> dict[str, Tensor]:
    """Features by tower; with gradients a simulated model sums floats."""
    model: Any = loaded.model
    found = {}
    for tower, encode in (("image", model.encode_image), ("text", model.encode_text)):

        def detached(batch: Tensor, encode: Encode = encode) -> Tensor:
            with torch.set_grad_enabled(gradients):
                return encode(batch).detach()

        found[tower] = run(detached, samples.inputs[tower])
    return found


def _write(
    form: Format, folder: Path, known: _Known, integer: Run, progress: Progress
) -> ExportReport:
    in_float = rewrite(integer.model, integer.execution.fallbacks, form.operators())
    context = known.interface["context_length"]
    written: dict[str, int] = {}
    for name, signature in signatures(integer.clip.config, context).items():
        with progress.phase(f"write {name} tower", None):
            open_length = name == "text" and known.samples.any_length
            tower = Tower(integer.model, name, any_length=open_length).eval()
            file = form.file(folder, name)
            written[name] = form.write(tower, signature, file, any_length=open_length)
    if known.classes is not None:
        save_file({"embeddings": known.classes.contiguous()}, folder / CLASSES)
    with progress.phase("load back and compare", None):
        proofs = tuple(_proofs(form, folder, written, known))
    return ExportReport(
        format=form.name,
        source=integer.folder.manifest["files"][MODEL]["sha256"],
        files={file.name: file.stat().st_size for file in sorted(folder.iterdir())},
        data=known.samples.source,
        samples=known.samples.count,
        float_sums=known.float_sums,
        proofs=proofs,
        bounds={tower.tower: bound_of(tower) for tower in known.float_sums.towers},
        in_float={fallback.layer: fallback.reason for fallback in in_float},
        layers=len(integer.layers),
        interface=known.interface,
        versions=versions() | {b.package: str(b) for b in form.present},
    )


def _proofs(
    form: Format, folder: Path, written: Mapping[str, int], known: _Known
) -> list[BackendProof]:
    found = []
    for backend in form.present:
        loaded = {name: backend.load(form.file(folder, name), None) for name in TOWERS}
        found.append(prove(backend, loaded, written, known.samples.inputs, known.reference))
    return found


def require_passed(report: ExportReport) -> None:
    """Refuse an export that is not what it was made from.

    Raises:
        ExportError: a cosine is below its bound.
    """
    if report.passed:
        return
    backend, tower = report.failures[0]
    message = (
        f"the {tower.tower} tower in {backend} has a mean cosine of {tower.mean_cosine:.5f} to the "
        f"simulated model, below {report.bounds[tower.tower]:.5f}. The files were kept to look "
        "at; do not use them."
    )
    raise ExportError(message)
